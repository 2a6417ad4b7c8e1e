//@ top: Declare what a kernel may ask of the simulator
/* sim.h - the narrow door between a kernel and the machine that runs it.
 *
 * A kernel file, once lowered to plain C++ (lower.cpp), calls what stands
 * here and nothing else. The names that CUDA gives these things (__shfl_sync,
 * atomicAdd, float4, ...) are made from them in cuda/kv.cuh, the one file in
 * which nvcc and the simulator differ.
 *
 * Conventions: functions of the simulator live in namespace sim; what CUDA
 * itself declares (uint3, dim3, threadIdx, __syncthreads) does not. A place in
 * the source is found from a function's return address, so none of these
 * functions may be inlined; they are defined in other files. */
#ifndef SIM_H
#define SIM_H

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

//@ indices: Tell a thread who it is
struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1)
        : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    operator uint3() const { return uint3{x, y, z}; }
};

/* Set at each switch to a thread. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

//@ barriers: Let threads wait for each other
void __syncthreads();
int __syncthreads_count(int condition);
int __syncthreads_and(int condition);
int __syncthreads_or(int condition);

namespace sim {

/* One operation of a warp: lanes named in mask meet, hand in a value, and
 * receive one. argument and width are those of the shuffles. */
enum WarpOp {
    SHUFFLE_INDEX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR,
    BALLOT, MATCH, SYNC, GATHER, ACTIVE
};
uint64_t warp(WarpOp op, unsigned mask, uint64_t value, int argument,
              int width);

/* All 32 lanes hand in three words and receive those of all: with this the
 * twins of matrix instructions are made. */
struct Gathered {
    uint64_t mine[3], all[warpSize][3];
};
void gather(Gathered *g);

/* Memory fences order nothing by themselves; an atomic after one publishes. */
void fence();
void fence_block();

//@ atomics: Read, change and write in one go
enum AtomicOp {
    ADD, SUBTRACT, MINIMUM, MAXIMUM, AND, OR, XOR, EXCHANGE, COMPARE,
    INCREMENT, DECREMENT
};
enum Number { INT32, UINT32, UINT64, FLOAT32, FLOAT64 };

/* value and compare hold the bits of a number of that type; so does the old
 * content that is returned. */
uint64_t atomic(AtomicOp op, Number type, void *address, uint64_t value,
                uint64_t compare);

//@ shared: Find the block's shared arrays
/* A static one is known by the address of a variable of its own. The first
 * thread of a block to come by makes it. */
void *shared(const void *key, const char *name, size_t bytes,
             size_t element);
void *dynamic(const char *name, size_t element);

//@ copies: Copy to shared memory behind the thread's back
/* Bytes arrive when copy_wait says so: all groups but the latest `pending`.
 * The last `zeros` of them are zero instead of copied. */
void copy_async(void *to, const void *from, int bytes, int zeros);
void copy_commit();
void copy_wait(int pending);

//@ device: Give the host memory that kernels may use
void *allocate(size_t bytes, const char *name);
bool release(void *pointer);
bool copy(void *to, const void *from, size_t bytes);
bool fill(void *to, int byte, size_t bytes);
void name(const void *pointer, const char *name, size_t element);

/* Nothing since the last call, or why a launch was refused or given up. */
const char *last_error(bool forget);

//@ launch: Run a kernel over a grid
struct Config {
    dim3 grid, block;
    size_t shared;
};

inline Config config(dim3 grid, dim3 block, size_t shared = 0,
                     const void * = nullptr) {
    return Config{grid, block, shared};
}

/* An argument that is a pointer names the array it points to. */
struct Argument {
    const void *pointer;
    size_t element;
};

template <class T> Argument argument(const T &) { return {nullptr, 0}; }
template <class T> Argument argument(T *p) { return {p, sizeof(T)}; }
inline Argument argument(void *p) { return {p, 1}; }
inline Argument argument(const void *p) { return {p, 1}; }

struct Call {
    void (*run)(void *self);
    void *self;
    size_t size; /* reading the arguments themselves is no memory request */
};

void run(const char *kernel, const char *names, const Config &c, Call call,
         const Argument *arguments, int count);

//@ launcher: Remember a call until a thread makes it
/* std::apply, but a wrong argument gives the compiler less to say. */
template <class F, class T, size_t... I>
void call(F &f, T &a, std::index_sequence<I...>) {
    f(std::get<I>(a)...);
}

template <class F> struct Launcher {
    const char *kernel, *names;
    Config c;
    F f;

    template <class... A> void operator()(A... a) {
        struct Bound {
            F f;
            std::tuple<A...> a;
        } bound{f, std::tuple<A...>(a...)};
        Argument list[sizeof...(A) + 1] = {argument(a)...};
        auto one = [](void *self) {
            Bound *b = static_cast<Bound *>(self);
            call(b->f, b->a, std::index_sequence_for<A...>());
        };
        run(kernel, names, c, Call{one, &bound, sizeof bound}, list,
            int(sizeof...(A)));
    }
};

template <class F>
Launcher<F> launch(const char *kernel, const char *names, Config c, F f) {
    return Launcher<F>{kernel, names, c, f};
}

//@ orders: Choose in which order threads run
enum Order { ASCENDING, DESCENDING, STRIDED, SHUFFLED };
void set_order(Order order, uint64_t seed);

/* Orders asked for on the command line: "ascending", ..., "shuffled:SEED",
 * or "all", the default. orders() is their number, use_order(i) selects one.
 * Requests are counted in the first only. */
void options(int argc, char **argv);
void options_from_environment(); /* the words of $CUSIM */
int orders();
void use_order(int i);

/* Print what was seen; 1 if there was anything to complain about, 2 if there
 * was nothing but launches that no device would take. */
int report();

//@ library: Let a C program ask as well
/* For programs that link kernels and the simulator. order: 0 ascending, 1
 * descending, 2 strided, 3 shuffled with that seed. sim_findings is their
 * number so far; sim_report prints them, after the tables if asked, and
 * sim_forget begins anew. sim_sectors: sectors of global memory that all
 * kernels so far have loaded (stores 0) or stored and changed (1), of arrays
 * of that name, or of all (NULL). */
extern "C" {
void sim_order(int order, uint64_t seed);
long sim_findings(void);
void sim_report(int with_tables);
void sim_forget(void);
uint64_t sim_sectors(const char *array, int stores);
}

//@ arrays: Make arrays for a launch line
/* how: "" (uninitialised), "zero", "index", "random" or a number. What cannot
 * be made ends the program with a message. */
double initial(const char *how, size_t i);
bool is_zero(const char *how);
void *new_array(const char *label, long long count, size_t element);
[[noreturn]] void cannot(const char *label, const char *why);

/* What a short vector consists of, and a number of itself. */
template <class T> auto part(T *v, int) -> decltype(&v->x) { return &v->x; }
template <class T> auto part(T *v, long) -> decltype(&v->word) {
    return &v->word;
}
template <class T> T *part(T *v, ...) { return v; }

//@ fill-array: Fill them
/* Fill an array of numbers or short vectors, or clear one of structs. */
template <class T> bool fill_array(T *device, size_t count, const char *how) {
    T value;
    auto *one = part(&value, 0);
    typedef std::remove_reference_t<decltype(*one)> Part;
    if constexpr (std::is_constructible_v<Part, double>) {
        for (size_t i = 0; *how && i < count; i++) {
            for (size_t j = 0; j < sizeof(T) / sizeof *one; j++)
                one[j] = Part(initial(how, i));
            copy(device + i, &value, sizeof value);
        }
        return true;
    }
    if (*how)
        fill(device, 0, count * sizeof(T));
    return !*how || is_zero(how);
}

template <class T>
T *array(const char *label, long long count, const char *how) {
    T *device = static_cast<T *>(new_array(label, count, sizeof(T)));
    if (!fill_array(device, size_t(count), how))
        cannot(label, "is of structs: fill it with zero, or with a kernel");
    return device;
}

} // namespace sim

#endif
