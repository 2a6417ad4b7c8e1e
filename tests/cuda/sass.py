"""Read the machine code (SASS) of kernels out of a cubin, with nothing but this file.

A cubin is an ELF file. Section .text.NAME holds the instructions of kernel NAME, 16 bytes each,
little endian. The low 9 bits of the first word are the operation, bits 9-11 the form of its
operands; loads and stores say their width in bits 73-75; a branch has its distance, in units of 4
bytes from the next instruction, in bits 16-23 (low part) and from bit 34 on. The table was made by
compiling small kernels whose instructions are known; it holds for the nvcc version that the report
names.
"""
import struct

OPS = {0x02: "MOV", 0x05: "CS2R", 0x07: "SEL", 0x08: "FSEL", 0x09: "FMNMX", 0x0a: "FSET",
       0x0b: "FSETP", 0x0c: "ISETP", 0x10: "IADD3", 0x11: "LEA", 0x12: "LOP3", 0x13: "IABS",
       0x16: "PRMT", 0x17: "IMNMX", 0x19: "SHF", 0x1c: "PLOP3", 0x20: "FMUL", 0x21: "FADD",
       0x23: "FFMA", 0x24: "IMAD", 0x25: "IMAD.WIDE", 0x26: "IDP", 0x27: "IMAD.HI", 0x28: "DMUL",
       0x29: "DADD", 0x2a: "DSETP", 0x2b: "DFMA", 0x30: "HADD2", 0x31: "HFMA2", 0x32: "HMUL2",
       0x33: "HSET2", 0x34: "HSETP2", 0x35: "HFMA2.MMA", 0x36: "VIADD", 0x3a: "MOVM", 0x3b: "LDSM",
       0x3c: "HMMA", 0x3e: "F2FP", 0x40: "HMNMX2", 0x45: "I2FP", 0x46: "VIADDMNMX",
       0x47: "VHMNMX", 0x48: "VIMNMX", 0x82: "UMOV",
       0x87: "USEL", 0x8c: "UISETP", 0x90: "UIADD3", 0x91: "ULEA", 0x92: "ULOP3", 0x96: "UPRMT",
       0x99: "USHF", 0x9c: "UPLOP3", 0xa4: "UIMAD", 0xa5: "UIMAD.WIDE", 0xb9: "ULDC",
       0xbe: "UF2FP", 0x102: "I2I", 0x104: "F2F", 0x105: "F2I", 0x106: "I2F", 0x107: "FRND",
       0x108: "MUFU", 0x109: "POPC", 0x10a: "FLO", 0x110: "F2F.64", 0x111: "F2I.64",
       0x112: "I2F.64", 0x118: "NOP", 0x119: "S2R", 0x11a: "DEPBAR", 0x11d: "BAR", 0x141: "BSYNC",
       0x142: "BREAK", 0x143: "CALL.ABS", 0x144: "CALL", 0x145: "BSSY", 0x146: "YIELD",
       0x147: "BRA", 0x148: "WARPSYNC", 0x149: "BRX", 0x14d: "EXIT", 0x150: "RET",
       0x15d: "NANOSLEEP", 0x180: "LD", 0x181: "LDG", 0x182: "LDC", 0x183: "LDL", 0x184: "LDS",
       0x185: "ST", 0x186: "STG", 0x187: "STL", 0x188: "STS", 0x189: "SHFL", 0x18b: "LDTM",
       0x18e: "REDG", 0x192: "MEMBAR", 0x1a1: "MATCH", 0x1a8: "ATOMG", 0x1a9: "ATOMG.CAS",
       0x18c: "ATOMS", 0x18d: "ATOMS.CAS", 0x1ab: "ERRBAR", 0x1ae: "LDGSTS", 0x1af: "LDGDEPBAR",
       0x1c3: "S2UR", 0x1c2: "R2UR", 0x1c1: "REDUX", 0x06: "VOTE", 0x86: "VOTEU"}

WIDTH = {0: 8, 1: 8, 2: 16, 3: 16, 4: 32, 5: 64, 6: 128}
MEMORY = ("LD", "ST", "LDG", "STG", "LDS", "STS", "LDL", "STL", "LDGSTS")

KINDS = (("tensor core", "HMMA MOVM LDSM"),
         ("16-bit arithmetic", "HADD2 HFMA2 HMUL2 HFMA2.MMA HSET2 HSETP2 HMNMX2 VHMNMX"),
         ("32-bit arithmetic", "FMUL FADD FFMA FMNMX FSEL FSET FSETP MUFU"),
         ("64-bit arithmetic", "DMUL DADD DFMA DSETP"),
         ("conversion", "F2FP I2FP I2F F2I F2F FRND F2F.64 F2I.64 I2F.64 I2I"),
         ("bits", "LOP3 SHF PRMT"),
         ("integer", "IADD3 LEA IMAD IMAD.WIDE IMAD.HI IDP ISETP IMNMX VIMNMX VIADD VIADDMNMX IABS "
                     "SEL POPC FLO PLOP3 MOV CS2R"),
         ("global memory", "LDG STG LD ST LDGSTS LDGDEPBAR DEPBAR REDG ATOMG ATOMG.CAS MEMBAR"),
         ("shared memory", "LDS STS ATOMS ATOMS.CAS"),
         ("local memory", "LDL STL"),
         ("warp", "SHFL VOTE MATCH REDUX WARPSYNC BAR"),
         ("uniform", "UMOV USEL UISETP UIADD3 ULEA ULOP3 UPRMT USHF UPLOP3 UIMAD UIMAD.WIDE ULDC "
                     "UF2FP VOTEU S2UR R2UR LDC S2R"),
         ("control", "BRA BRX BSSY BSYNC BREAK CALL CALL.ABS RET EXIT NOP YIELD NANOSLEEP ERRBAR"))
KIND_OF = {op: kind for kind, ops in KINDS for op in ops.split()}


def sections(data):
    """name -> bytes of an ELF file."""
    at, = struct.unpack_from("<Q", data, 0x28)
    count, names = struct.unpack_from("<HH", data, 0x3c)
    table = [struct.unpack_from("<IIQQQQIIQQ", data, at + 64 * i) for i in range(count)]
    start = table[names][4]
    name = lambda s: data[start + s[0]:data.index(b"\0", start + s[0])].decode()
    return {name(s): data[s[4]:s[4] + s[5]] for s in table if s[1] != 8}


class Instruction:
    """op: its name, "?12f" if unknown; width: of a memory access, in bits; target: of a branch;
    parts: it is taken only when the lanes of a warp have parted ways."""

    def __init__(self, index, low, high, arch):
        code = low & 0x1ff
        self.op = OPS.get(code, f"?{code:03x}")
        self.predicated = low >> 12 & 7 != 7 or low >> 15 & 1
        self.width = WIDTH.get(high >> 9 & 7) if self.op in MEMORY else None
        self.target = None
        self.parts = self.op == "BRA" and high >> 27 & 1  # BRA.DIV
        if self.op == "BRA":
            distance = low >> 34 | (high & 0x3ffff) << 30  # 48 bits and their sign
            if distance >> 47:
                distance -= 1 << 48
            if arch >= 90:  # the lowest byte of the distance stands apart
                distance = distance * 256 + (low >> 16 & 255)
            self.target = index + 1 + distance // 4  # in units of four bytes


def decode(code, arch):
    words = struct.unpack(f"<{len(code) // 8}Q", code)
    return [Instruction(i, words[2 * i], words[2 * i + 1], arch) for i in range(len(words) // 2)]


def kernels(path):
    """mangled name -> instructions, without the padding after the end (a jump to itself, NOPs)."""
    found = {}
    data = open(path, "rb").read()
    arch = data[0x31]  # 80, 90, ...: the second byte of the ELF file's flags
    for name, code in sections(data).items():
        if not name.startswith(".text."):
            continue
        body = decode(code, arch)
        while body and (body[-1].op == "NOP" or body[-1].target == len(body) - 1):
            body.pop()
        found[name[6:]] = body
    return found


def loops(body):
    """(first, last) of each backward branch within the kernel, outer ones first."""
    found = {}
    for i, ins in enumerate(body):
        if ins.target is not None and 0 <= ins.target <= i:
            found[ins.target] = max(found.get(ins.target, 0), i)
    return sorted(found.items(), key=lambda l: (l[0], -l[1]))


def shortest(body, first, last):
    """The fewest instructions from first to last, the latter not counted; lanes do not part ways.
    None: no way. What can be left out is: the way through code whose special cases do not occur."""
    far, waiting = {first: 0}, [first]
    while waiting:  # all instructions count one, so the first way found is the shortest
        i = waiting.pop(0)
        if i == last:
            return far[i]
        ins = body[i]
        if ins.op == "BRA" and not ins.parts:
            then = [ins.target] + ([i + 1] if ins.predicated else [])
        else:
            then = [] if ins.op in ("EXIT", "RET") and not ins.predicated else [i + 1]
        for k in then:
            if 0 <= k < len(body) and k not in far:
                far[k] = far[i] + 1
                waiting.append(k)
    return None


def histogram(body):
    count = {}
    for ins in body:
        count[ins.op] = count.get(ins.op, 0) + 1
    return dict(sorted(count.items(), key=lambda c: (-c[1], c[0])))


def by_kind(body):
    count = {}
    for ins in body:
        kind = KIND_OF.get(ins.op, "unknown")
        count[kind] = count.get(kind, 0) + 1
    return {k: count[k] for k in [k for k, _ in KINDS] + ["unknown"] if k in count}


def widths(body, op):
    count = {}
    for ins in body:
        if ins.op == op:
            count[ins.width] = count.get(ins.width, 0) + 1
    return dict(sorted(count.items(), reverse=True))
