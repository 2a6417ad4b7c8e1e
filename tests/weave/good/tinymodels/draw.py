import sys


# Prints a row of stars.
def stars(n):
    print("*" * n)

    sys.stdout.flush()


stars(3)
