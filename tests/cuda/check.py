"""Run the simulator on kernels with planted mistakes and known answers.

A line of tests/cuda/planted/*.cu that ends in "// expect: KIND..." must be named by a finding of
that kind, and by no other; a line with "// expect: sectors=4" (bytes=, wavefronts=) must cost that
much per request of a warp. Kernels without a marked line must give no finding. A mistake must show
in each of the four orders of threads.
The same files are then compiled by nvcc, where there is one. The last line counts everything.
"""
import glob, json, os, re, subprocess, sys, tempfile

BUILD = os.environ.get("BUILD", "build")
HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = ("out-of-bounds", "misaligned", "race", "divergent-barrier", "absent-lane", "uninitialised")
passed, failed, skipped = 0, 0, 0


def verdict(good, what, why=""):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print(f"FAILED {what}: {why}")


def expectations(path):
    """kernel -> line -> the words after "expect:"."""
    kernels, kernel = {}, None
    for number, line in enumerate(open(path), 1):
        m = re.search(r"\b((?:bad|good)_\w+)\(", line)
        if m and "sim launch" not in line:
            kernel = m.group(1)
            kernels[kernel] = {}
        m = re.search(r"// expect: (.*)", line)
        if m:
            kernels[kernel][number] = m.group(1).split()
    return kernels


def check_findings(kernel, lines, findings):
    wanted = {(k, n) for n, words in lines.items() for k in words if k in KINDS}
    got = set()
    orders = 0
    for f in findings:
        got |= {(f["kind"], f["line"]), (f["kind"], f["other_line"])}
        orders |= f["orders"]
    why = f"not found {sorted(wanted - got)}, found besides {sorted(got - wanted)}"
    verdict(got == wanted, kernel, why)
    if wanted:
        verdict(orders == 15, kernel, f"seen only in orders {orders:04b}")


def check_costs(kernel, lines, requests):
    for number, words in lines.items():
        for word in words:
            if "=" not in word:
                continue
            what, value = word.split("=")
            space = "shared" if what == "wavefronts" else "global"
            rows = [r for r in requests if r["line"] == number and r["space"] == space]
            cost = [r[what] / r["requests"] for r in rows]
            verdict(cost and all(c == float(value) for c in cost), f"{kernel}, line {number}",
                    f"{what} {cost} instead of {value}")


def check_file(path):
    run = subprocess.run([f"{BUILD}/cusim", path, "--json"], capture_output=True, text=True)
    try:
        report = json.loads(run.stdout)
    except ValueError:
        return verdict(False, path, "no report: " + run.stderr)
    verdict(run.returncode == (1 if report["findings"] else 0), path, f"status {run.returncode}")
    plain = lambda name: name.split("<")[0]
    for kernel, lines in expectations(path).items():
        check_findings(kernel, lines,
                       [f for f in report["findings"] if plain(f["kernel"]) == kernel])
        runs = [k for k in report["kernels"] if plain(k["name"]) == kernel]
        verdict(bool(runs), kernel, "did not run")
        check_costs(kernel, lines, [r for k in runs for r in k["requests"]])


def check_refused(cusim, line, launch):
    """What no device would take, and threads that do not come to their end."""
    for size in ("block=2048", "grid=0", "grid=65536,65535", "grid=1,65536", "smem=999999"):
        run = cusim(line + size + "\n", "--quiet")
        verdict(run.returncode == 2 and run.stdout.startswith("refused           k: "), size,
                run.stdout)
    run = cusim("__global__ void k(int *y, int n) {\n    __shared__ int s[12289];\n"
                "    s[0] = n;\n    y[0] = s[0];\n}\n"
                "//sim launch k args=y:int[1],n:int=1 block=1\n")
    verdict(run.returncode == 2 and "k: more than 48 KiB" in run.stdout, "48 KiB", run.stdout)
    kernel = "__global__ void k(int *y, int n) {\n    %s\n}\n"
    kernel += launch.replace("float", "int") + "0\n"
    for body, code, word in (
            ("y[0] = 5 / n;", 2, "k.cu:2: kernel k broke off in thread (0,0,0) of block"),
            ("volatile int big[40000]; big[n] = 1;", 2, "64 KiB"),
            ("if (n == 0) __builtin_abort();", 2, "stopped by assert"),
            ("while (n == 0) ;", 1, "stuck             k.cu:2  waits for ever")):
        run = cusim(kernel % body, "--order", "ascending", "--quiet")
        verdict(run.returncode == code and word in run.stdout + run.stderr, body,
                run.stdout + run.stderr)
    run = cusim("__device__ int last;\n__global__ void k(int *y) { last = y[threadIdx.x]; }\n"
                "int main() {\n    int *y, h[64] = {0};\n    cudaMalloc(&y, 128);\n"
                "    if (cudaMemcpy(y, h, 256, cudaMemcpyHostToDevice) != cudaErrorInvalidValue)\n"
                "        return 7;\n    cudaMemset(y, 1, 128);\n    k<<<1, 1>>>(y);\n"
                "    cudaMemcpyFromSymbol(h, last, 4);\n    return h[0] == y[0] ? 0 : 8;\n}\n")
    verdict(run.returncode == 2 and "refused           cudaMemcpy: more" in run.stdout
            and "refused           k.cu:11: the host touches" in run.stdout, "copies", run.stdout)


def check_text(folder):
    """The form of a finding, the exit status, and what a reader is told when a file is unfit."""
    def cusim(text, *options):
        path = os.path.join(folder, "k.cu")
        open(path, "w").write(text)
        return subprocess.run([os.path.abspath(f"{BUILD}/cusim"), "k.cu", *options], cwd=folder,
                              capture_output=True, text=True)
    kernel = "__global__ void k(float *y, int n) {\n    y[threadIdx.x + n] = 1;\n}\n"
    launch = "//sim launch k grid=2 block=32 args=y:float[32],n:int="
    run = cusim(kernel + launch + "1\n", "--quiet", "--order", "descending")
    verdict(re.match(r"out-of-bounds +k\.cu:2 \(write\)  y\[32\]  thread 31, block [01]  in k",
                     run.stdout)
            and run.returncode == 1, "text", run.stdout)
    run = cusim("//sim launch k block=32 args=y:float[32],n:int=0\n" + kernel)
    verdict(run.returncode == 0 and "sectors" in run.stdout, "text", run.stdout + run.stderr)
    run = cusim("__constant__ float table[2] = {1, 2};\n"
                "//sim launch wait args=flag:int[1]=zero\n"
                "__global__ void wait(int *flag) {\n"
                "    while (atomicAdd(flag, int(table[0]) - 1) == 0)\n        ;\n}\n",
                "--order", "ascending")
    verdict(run.returncode == 1 and "stuck             k.cu:4" in run.stdout, "a wait for ever",
            run.stdout)
    line = kernel + "//sim launch k args=y:float"
    for text, word in ((kernel, "launch"), (kernel + launch + "\n", "n:int"),
                       (kernel + "//sim launch k args=z\n", "earlier"),
                       (kernel + "//sim lunch k\n", "expected"),
                       ("}" + kernel + launch + "1\n", "compiled"),
                       (kernel + "//sim launch h args=n:int=1\n", "the file has k"),
                       (line + "[9]\n", "k has 2 parameters (y,n) and is given 1"),
                       (line + "[9]=rnd,n:int=1\n", "expected zero, index"),
                       (line + "[9,n:int=1\n", "no ]"),
                       (line + "[9],n:int=1 grid=-1\n", "grid=-1"),
                       (line + "[9],n:int=1 grid=1,2,3,4\n", "one to three"),
                       (line + "[100000000000],n:int=1\n", "does not fit"),
                       (line + "[-1],n:int=1\n", "negative length"),
                       (line.replace("y:float", "y:int") + "[9],n:int=1\n", "cannot convert"),
                       (line + "[9],n:int=1\nint main() {}\n", "which of them")):
        run = cusim(text)
        verdict(run.returncode == 2 and word in run.stderr, "unfit file", repr(run.stderr[-200:]))
    run = cusim("__global__ void k() { cooperative_groups::this_thread_block().sync(); }\n"
                "//sim launch k\n")
    verdict(run.returncode == 2 and "simulator has no cooperative groups" in run.stderr, "a hint",
            run.stderr)
    run = cusim("__global__ void h() {}\n__global__ void k() { h<<<1, 1>>>(); }\n"
                "//sim launch k block=1\n", "--quiet")
    verdict(run.returncode == 2 and "h: a kernel cannot launch" in run.stdout, "a launch within",
            run.stdout)
    run = subprocess.run([f"{BUILD}/cusim", folder], capture_output=True, text=True)
    verdict(run.returncode == 2 and "cannot read" in run.stderr, "a folder", run.stderr)
    check_refused(cusim, line + "[99],n:int=1 ", launch)
    open(os.path.join(folder, "k.sim"), "w").write("launch k block=32 args=y:float[32],n:int=0\n")
    run = cusim(kernel)
    verdict(run.returncode == 0, "launch lines beside the file", run.stderr)
    run = cusim('#include "kv.cuh"\n#include <cstdio>\n' + kernel + """
int main() {
    float *y, h[40];
    cudaMalloc(&y, 32 * sizeof(float));
    k<<<1, 32>>>(y, 0);
    cudaMemcpy(h, y, 32 * sizeof(float), cudaMemcpyDeviceToHost);
    printf("sum %g %s\\n", h[0] + h[31], cudaGetErrorString(cudaGetLastError()));
    k<<<1, 2048>>>(y, 0);
    printf("then %s\\n", cudaGetErrorString(cudaGetLastError()));
    k<<<1, 32>>>(y, 1);
    cudaFree(y);
}
""")
    verdict(run.returncode == 1 and "sum 2 no error" in run.stdout and "then the launch failed" in
            run.stdout and "y[32]" in run.stdout, "a program of one's own", run.stdout + run.stderr)


def check_gpu_lib():
    """Who wants the library for a GPU and has no nvcc is told what to do."""
    command = ["make", "-s", "gpu-lib", "NVCC=/no/nvcc"]
    run = subprocess.run(command, capture_output=True, text=True)
    verdict(run.returncode != 0 and "make cusim-lib" in run.stdout, "gpu-lib",
            run.stdout + run.stderr)


def check_chapter():
    """The report shown in the book is the report of today."""
    chapter = "chapters/91-simulator"
    run = subprocess.run([f"{BUILD}/cusim", f"{chapter}/first.cu"], capture_output=True, text=True)
    shown = [line for line in open(f"{chapter}/results/first.txt") if not line.startswith("# ")]
    verdict(run.stdout == "".join(shown), chapter, run.stdout)


def check_nvcc(paths, folder):
    global skipped
    nvcc = os.environ.get("NVCC", "nvcc")
    try:
        subprocess.run([nvcc, "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        skipped += len(paths)
        print("skipped: no nvcc, so kv.cuh's other half was not compiled")
        return
    for path in paths:
        out = os.path.join(folder, "k.cubin")
        run = subprocess.run([nvcc, "-std=c++17", "-arch=sm_80", "-Icuda", "-Iref", "-cubin",
                              "-o", out, path], capture_output=True, text=True)
        verdict(run.returncode == 0, "nvcc " + path, run.stdout + run.stderr)


def main():
    global passed, failed
    twins = subprocess.run([f"{BUILD}/test-cuda/twins"], capture_output=True, text=True)
    m = re.search(r"(\d+) passed, (\d+) failed", twins.stdout)
    print(twins.stdout, end="")
    passed, failed = (int(m.group(1)), int(m.group(2))) if m else (0, 1)
    paths = sorted(os.path.relpath(p) for p in glob.glob(os.path.join(HERE, "planted", "*.cu")))
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            check_file(path)
        check_text(folder)
        check_chapter()
        check_gpu_lib()
        check_nvcc(paths, folder)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed != 0 or passed == 0


sys.exit(main())
