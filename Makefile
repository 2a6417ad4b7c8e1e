# "make" lists what can be made. Everything that is made goes to build/.
#
# CC=clang, SANITIZE=1 and BUILD=dir give other builds; MODEL=path.gguf names another language model.

CC      ?= cc
BUILD   ?= build
MODEL   ?= $(wildcard $(BUILD)/llm/SmolLM2-135M-Instruct.Q4_1.gguf)
PYTHON  ?= python3

ifeq ($(origin CC),default)
CC := cc
endif

WARN     = -Wall -Wextra -Wpedantic -Wshadow
CFLAGS  ?= -O2 -g
ALL      = -std=c11 $(WARN) $(CFLAGS) -MMD -MP -Iref -Itinymodels -ffp-contract=off
LIBS     = -lopenblas -lpcre2-8 -lcjson -lm -lpthread
ifdef SANITIZE
ALL     += -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
LIBS    += -fsanitize=address,undefined
endif

ref      = $(patsubst %.c,$(BUILD)/%.o,$(wildcard ref/*.c))
tiny     = $(patsubst %.c,$(BUILD)/%.o,$(filter-out tinymodels/main.c tinymodels/bench.c,\
             $(wildcard tinymodels/*.c)))
suites   = $(patsubst tests/%.c,$(BUILD)/test/%,$(filter-out tests/test_cuda_%,\
             $(wildcard tests/test_*.c)))
# chapters/NN-name/experiment.c becomes $(BUILD)/experiments/NN.
# chapters/NN-name/pictures.c becomes $(BUILD)/pictures/NN, which draws what results/ holds.
chapters = $(wildcard chapters/*/experiment.c)
drawings = $(wildcard chapters/*/pictures.c)
# Likewise chapters/NN-name/anatomy.c and $(BUILD)/anatomy/NN: one case looked at closely.
anatomies = $(wildcard chapters/*/anatomy.c)
number   = $(firstword $(subst -, ,$(patsubst chapters/%,%,$(1))))
painters = $(foreach file,$(drawings),$(BUILD)/pictures/$(call number,$(file)))
experiments = $(foreach file,$(chapters),$(BUILD)/experiments/$(call number,$(file)))
tools    = $(patsubst tests/tools/%.c,$(BUILD)/tools/%,$(wildcard tests/tools/*.c))
need     = @sh tests/tools/need.sh

# One word a file; "make V=1" shows whole command lines.
say      = $(if $(V),,@echo "  $(1)  $(2)"; )

.DEFAULT_GOAL := help
.PHONY: help
help: ## this list
	@echo "Attention sinks, KV-cache quantization and KVSink: a book you can run."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "Start with: make demo"

# ---- building -----------------------------------------------------------------------------------

.PHONY: all experiments
experiments: $(experiments) ## build the programs that make the chapters' figures, build/experiments/NN
all: $(BUILD)/kvsink ## build build/kvsink, the command line

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,cc  ,$<)$(CC) $(ALL) -c $< -o $@

# ref/ is the judge: every warning there is an error.
$(BUILD)/ref/%.o: ref/%.c
	@mkdir -p $(@D)
	$(call say,cc  ,$<)$(CC) $(ALL) -Werror -Wconversion -Wno-sign-conversion -c $< -o $@

$(BUILD)/tinymodels/kernels.o $(BUILD)/tinymodels/dequant.o: CFLAGS += -O3

# The commit is compiled into one file, which is rebuilt only when the commit changes.
$(BUILD)/tinymodels/cli.o: ALL += -DKV_COMMIT='"$(shell cat $(BUILD)/commit 2>/dev/null)"'
$(BUILD)/tinymodels/cli.o: $(BUILD)/commit
.PHONY: commit-stamp
$(BUILD)/commit: commit-stamp
	@mkdir -p $(BUILD)
	@git describe --always --dirty --abbrev=12 2>/dev/null >$@.new || echo unknown >$@.new
	@cmp -s $@.new $@ || cp $@.new $@; rm -f $@.new

$(BUILD)/libkv.a: $(ref)
	$(call say,ar  ,$@)rm -f $@; ar rcs $@ $^
$(BUILD)/libtm.a: $(tiny)
	$(call say,ar  ,$@)rm -f $@; ar rcs $@ $^
$(BUILD)/kvsink: $(BUILD)/tinymodels/main.o $(BUILD)/libtm.a $(BUILD)/libkv.a
	$(call say,link,$@)$(CC) $^ -o $@ $(LIBS)
$(BUILD)/bench: $(BUILD)/tinymodels/bench.o $(BUILD)/libtm.a $(BUILD)/libkv.a
	$(call say,link,$@)$(CC) $^ -o $@ $(LIBS)
$(BUILD)/test/%: tests/%.c $(BUILD)/libtm.a $(BUILD)/libkv.a
	@mkdir -p $(@D)
	$(call say,test,$<)$(CC) $(ALL) -Itests $< $(BUILD)/libtm.a $(BUILD)/libkv.a -o $@ -lcriterion $(LIBS)
define program
$(BUILD)/$(2)/$(call number,$(1)): $(BUILD)/$(1:.c=.o) $(BUILD)/libtm.a $(BUILD)/libkv.a
	@mkdir -p $$(@D)
	$$(call say,link,$$@)$$(CC) $$^ -o $$@ $$(LIBS)
endef
$(foreach file,$(chapters),$(eval $(call program,$(file),experiments)))
$(foreach file,$(drawings),$(eval $(call program,$(file),pictures)))
$(foreach file,$(anatomies),$(eval $(call program,$(file),anatomy)))
$(BUILD)/test/test_experiments: | $(experiments) $(BUILD)/kvsink
$(BUILD)/tools/%: tests/tools/%.c $(BUILD)/libtm.a $(BUILD)/libkv.a
	@mkdir -p $(@D)
	$(call say,tool,$<)$(CC) $(ALL) -Itests $< $(BUILD)/libtm.a $(BUILD)/libkv.a -o $@ $(LIBS)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# ---- the story ----------------------------------------------------------------------------------

tiny_model = $(BUILD)/handmade.gguf
texts      = $(BUILD)/texts
llm        = $(BUILD)/llm/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo llm
demo: ## see sinks found, a 2-bit cache break on them, and KVSink repair it
	$(need) demo build
	@$(MAKE) -s --no-print-directory $(BUILD)/kvsink
	@$(BUILD)/kvsink demo --out $(BUILD)/demo
	@if [ -n "$(MODEL)" ]; then $(MAKE) --no-print-directory llm-story; else \
	    echo "Next: make llm   (the same story on a real language model, 98 MB)"; fi

llm: ## the same story on a real language model (MODEL=path.gguf: on yours)
	$(need) llm build text $(if $(MODEL),,fetch)
	@$(MAKE) -s --no-print-directory $(BUILD)/kvsink
	@[ -n "$(MODEL)" ] || sh tests/tools/fetch.sh $(BUILD)/llm
	@$(MAKE) -s --no-print-directory llm-story MODEL=$(or $(MODEL),$(llm))

.PHONY: llm-story texts
texts:
	$(need) texts text
	@sh tests/tools/texts.sh $(texts) >/dev/null
llm-story: texts
	@$(BUILD)/kvsink demo $(MODEL) --file $(texts)/devref.txt --out $(BUILD)/demo-llm
	@echo "Next: make test   (proves that what you saw is right)"

# ---- checking -----------------------------------------------------------------------------------

.PHONY: test
test: need-test ## build and run all tests that need no large model
	@$(MAKE) -s --no-print-directory test-run

.PHONY: need-test test-run
need-test:
	$(need) test build test
test-run: $(BUILD)/kvsink $(suites) $(tools) $(experiments)
	@$(PYTHON) tests/oracle/make_vectors.py --check
	@$(PYTHON) tests/oracle/lint.py
	@sh tests/need_test.sh
	@sh tests/fetch_test.sh
	@KV_BUILD=$(BUILD) sh tests/tools/run.sh $(suites)

.PHONY: test-llm
test-llm: ## test on the real language model (fetched if need be)
	$(need) test-llm build test fetch text numpy gguf
	@sh tests/tools/fetch.sh $(BUILD)/llm
	@$(MAKE) -s --no-print-directory texts $(BUILD)/kvsink $(suites) $(tools)
	@BUILD=$(BUILD) PYTHON=$(PYTHON) sh tests/llm.sh $(llm) $(texts)

# ---- CUDA on a CPU ------------------------------------------------------------------------------

# cuda/sim/ is a library of C++ that runs kernels, and cusim, the command that a reader points at a
# kernel of their own. cuda/X.cu is lowered to $(BUILD)/cuda/X.cpp and compiled with the options that
# cusim itself uses (cuda/sim/cusim.cpp says why); link X.o with libcusim.a.
ifeq ($(origin CXX),default)
CXX := g++
endif
NVCC     ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) nvcc)
sim_cxx  = $(CXX) -std=c++17 -O2 -gdwarf-4 -fPIC $(WARN) -Wno-unknown-pragmas -MMD -MP -ffp-contract=off
sim_lib  = $(patsubst %,$(BUILD)/cuda/sim/%.o,fiber race memory global sched fault count report)
sim_tool = $(patsubst %,$(BUILD)/cuda/sim/%.o,cusim lower)

$(BUILD)/cuda/sim/%.o: cuda/sim/%.cpp $(BUILD)/cuda/flags
	@mkdir -p $(@D)
	$(sim_cxx) -DCUSIM_HOME='"$(CURDIR)"' -DCUSIM_LIB='"$(abspath $(BUILD))/libcusim.a"' -c $< -o $@
# Other options, other objects.
$(BUILD)/cuda/flags: commit-stamp
	@mkdir -p $(@D)
	@echo '$(sim_cxx)' | cmp -s - $@ || echo '$(sim_cxx)' >$@
$(BUILD)/libcusim.a: $(sim_lib)
	@rm -f $@
	ar rcs $@ $^
$(BUILD)/cusim: $(sim_tool) $(BUILD)/libcusim.a
	$(CXX) $(sim_tool) -o $@
$(BUILD)/cuda/%.cpp: cuda/%.cu $(BUILD)/cusim
	$(BUILD)/cusim --lower $< >$@.new && mv $@.new $@
$(BUILD)/cuda/%.o: $(BUILD)/cuda/%.cpp cuda/kv.cuh cuda/sim/sim.h $(BUILD)/cuda/flags
	$(CXX) $$($(BUILD)/cusim --flags) -fPIC -Icuda -Iref -c $< -o $@
$(BUILD)/test-cuda/%: tests/cuda/%.cpp cuda/kv.cuh $(BUILD)/libcusim.a
	@mkdir -p $(@D)
	$(sim_cxx) -Icuda -Iref $< $(BUILD)/libcusim.a -ldl -o $@

# The kernels of cuda/ as a library for C programs: run by the simulator, or for a device by nvcc.
# Programs that test them know only cuda/kv_cuda.h and are linked with the one or the other.
kernels  = $(notdir $(basename $(wildcard cuda/*.cu)))
cuda_suites = $(notdir $(basename $(wildcard tests/test_cuda_*.c)))
cuda_test   = $(CC) $(ALL) -Icuda -Itests
$(BUILD)/libkvcuda-sim.so: $(patsubst %,$(BUILD)/cuda/%.o,$(kernels)) $(sim_lib)
	$(CXX) -shared $^ -o $@ -ldl
$(BUILD)/libkvcuda-sim.a: $(patsubst %,$(BUILD)/cuda/%.o,$(kernels)) $(sim_lib)
	@rm -f $@
	ar rcs $@ $^
$(patsubst %,$(BUILD)/cuda/%.o,$(kernels)): $(wildcard cuda/*.h cuda/*.cuh) ref/kv.h
$(BUILD)/cuda/test_%.o: tests/test_%.c
	@mkdir -p $(@D)
	$(cuda_test) -c $< -o $@
$(BUILD)/test-cuda/test_%: $(BUILD)/cuda/test_%.o $(BUILD)/libkvcuda-sim.a $(BUILD)/libkv.a
	@mkdir -p $(@D)
	$(CXX) $^ -o $@ -lcriterion -lcjson -lm -ldl
$(BUILD)/test-cuda/decode_counts: tests/cuda/decode_counts.c $(BUILD)/libkvcuda-sim.a $(BUILD)/libkv.a
	@mkdir -p $(@D) $(BUILD)/cuda
	$(cuda_test) -c $< -o $(BUILD)/cuda/decode_counts.o
	$(CXX) $(BUILD)/cuda/decode_counts.o $(BUILD)/libkvcuda-sim.a $(BUILD)/libkv.a -o $@ -lm -ldl
.SECONDARY: $(patsubst %,$(BUILD)/cuda/%.o,$(cuda_suites)) $(patsubst %,$(BUILD)/cuda/%.cpp,$(kernels))

# Each file alone through nvcc, for the devices that CI stands for; without nvcc that is skipped, and
# said. What is up to date is not compiled again.
arches   = sm_80 sm_90
cubins   = $(foreach a,$(arches),$(patsubst %,$(BUILD)/cubin/$(a)/%.cubin,$(kernels)))
define cubin_rule
$(BUILD)/cubin/$(1)/%.cubin: cuda/%.cu $(wildcard cuda/*.h cuda/*.cuh) ref/kv.h
	@mkdir -p $$(@D)
	$$(call say,nvcc,$(1) $$<)$(NVCC) -std=c++17 -arch=$(1) -Werror all-warnings -Xptxas -v -Icuda -Iref -cubin \
	    -o $$@ $$< 2>$$@.log || { cat $$@.log; rm -f $$@; exit 1; }
endef
$(foreach a,$(arches),$(eval $(call cubin_rule,$(a))))
.PHONY: cubins cubins-made
cubins-made: $(cubins)
cubins:
	@if ! $(NVCC) --version >/dev/null 2>&1; then \
	    echo "nvcc: 0 passed, 0 failed, $(words $(cubins)) skipped: no nvcc here"; \
	elif $(MAKE) -s -k --no-print-directory cubins-made; then \
	    echo "nvcc: $(words $(cubins)) passed, 0 failed, 0 skipped"; \
	else echo "FAILED: some kernel files do not compile"; exit 1; fi

.PHONY: test-cuda
test-cuda: ## test the kernels of cuda/ against ref/, in the simulator
	$(need) test-cuda build test cuda
	@$(MAKE) -s --no-print-directory $(patsubst %,$(BUILD)/test-cuda/%,$(cuda_suites))
	@$(MAKE) -s --no-print-directory $(BUILD)/kvsink $(BUILD)/libkvcuda-sim.so
	@BUILD=$(BUILD) sh tests/cuda/generate.sh sim
	@sh tests/tools/run.sh $(patsubst %,$(BUILD)/test-cuda/%,$(cuda_suites))
	@$(MAKE) -s --no-print-directory cubins

# UPDATE=1 replaces the committed report (tests/cuda/report.txt); ARCHS=all builds for all that we support.
.PHONY: cuda-report
cuda-report: ## what nvcc makes of the kernels: registers, spills, widths, instructions
	$(need) cuda-report build cuda
	@$(MAKE) -s --no-print-directory $(patsubst %,$(BUILD)/test-cuda/%,decode_counts test_cuda_quantize test_cuda_kvsink)
	@$(PYTHON) tests/cuda/report.py $(NVCC) $(BUILD) --archs $(if $(ARCHS),$(ARCHS),sm_80,sm_90) \
	    $(if $(UPDATE),--update) cuda/*.cu

# The same on a device. Programs are built wherever nvcc is, and run where a GPU is; code for sm_80 is
# translated by the driver of a newer one. GPU_ARCH=-arch=native is for one's own.
GPU_ARCH    ?= -arch=sm_80
GPU_RESULTS ?= $(BUILD)/gpu-results.tsv
cuda_home    = $(dir $(patsubst %/,%,$(dir $(shell command -v $(NVCC)))))
cuda_link    = -L$(cuda_home)lib64 -lcudart_static -lrt -ldl -lpthread
gpu_programs = $(patsubst %,$(BUILD)/gpu/%,$(cuda_suites) device bench) $(BUILD)/kvsink $(BUILD)/libkvcuda.so
$(BUILD)/gpu/%.o: cuda/%.cu $(wildcard cuda/*.h cuda/*.cuh) ref/kv.h
	@mkdir -p $(@D)
	$(call say,nvcc,$<)$(NVCC) -std=c++17 -O3 $(GPU_ARCH) -Xcompiler -Wall,-fPIC -Icuda -Iref -c -o $@ $<
$(BUILD)/libkvcuda.a: $(patsubst %,$(BUILD)/gpu/%.o,$(kernels))
	@rm -f $@
	$(call say,ar  ,$@)ar rcs $@ $^
$(BUILD)/libkvcuda.so: $(patsubst %,$(BUILD)/gpu/%.o,$(kernels))
	$(call say,link,$@)$(CXX) -shared $^ -o $@ $(cuda_link)
$(BUILD)/gpu/test_%: tests/test_%.c $(BUILD)/libkvcuda.a $(BUILD)/libkv.a
	$(call say,test,$<)$(cuda_test) -DKV_GPU -c $< -o $@.o && \
	    $(CXX) $@.o $(BUILD)/libkvcuda.a $(BUILD)/libkv.a -o $@ -lcriterion -lcjson -lm $(cuda_link)
	@rm -f $@.o
$(BUILD)/gpu/device: tests/cuda/device.c $(BUILD)/libkvcuda.a
	$(call say,cc  ,$<)$(cuda_test) -c $< -o $@-main.o && $(CXX) $@-main.o $(BUILD)/libkvcuda.a -o $@ $(cuda_link)
	@rm -f $@-main.o
$(BUILD)/gpu/bench: tests/cuda/gpu_bench.cu $(BUILD)/libkvcuda.a $(BUILD)/libkv.a
	$(call say,nvcc,$<)$(NVCC) -std=c++17 -O3 $(GPU_ARCH) -Xcompiler -Wall -Icuda -Iref $^ -o $@ -lcublas

.PHONY: gpu-build gpu-test gpu-bench cusim-lib gpu-lib
cusim-lib: ## build what kvsink generate --backend sim needs
	$(need) cusim-lib cuda
	@$(MAKE) -s --no-print-directory $(BUILD)/libkvcuda-sim.so
gpu-lib: ## build what kvsink generate --backend cuda needs (nvcc)
	@$(NVCC) --version >/dev/null 2>&1 || { echo "gpu-lib: there is no $(NVCC); install NVIDIA's CUDA toolkit, or" \
	    "say NVCC=where/it/is; without a GPU: make cusim-lib and --backend sim"; exit 1; }
	@$(MAKE) -s --no-print-directory $(BUILD)/libkvcuda.so
gpu-build:
	@if $(NVCC) --version >/dev/null 2>&1; then sh tests/tools/need.sh gpu-test build test cuda && \
	    $(MAKE) -s --no-print-directory $(gpu_programs); \
	    else echo "gpu: $(words $(gpu_programs)) programs skipped: no nvcc here"; fi
gpu-test: gpu-build ## run the kernels' tests on a GPU, under compute-sanitizer too (skipped without one)
	@BUILD=$(BUILD) GPU_RESULTS=$(GPU_RESULTS) sh tests/cuda/gpu.sh test
gpu-bench: gpu-build
	@BUILD=$(BUILD) GPU_RESULTS=$(GPU_RESULTS) sh tests/cuda/gpu.sh bench

.PHONY: cusim test-cuda-sim test-cuda-portable
cusim: ## build build/cusim, which runs a CUDA kernel without a GPU
	$(need) cusim cuda
	@$(MAKE) --no-print-directory $(BUILD)/cusim
test-cuda-sim: ## test the simulator: planted mistakes, known answers, twins
	$(need) test-cuda-sim cuda
	@$(MAKE) --no-print-directory $(BUILD)/cusim $(BUILD)/test-cuda/twins
	@BUILD=$(BUILD) NVCC=$(NVCC) $(PYTHON) tests/cuda/check.py
# The same where no switch is written for the processor.
test-cuda-portable:
	@$(MAKE) --no-print-directory test-cuda-sim BUILD=$(BUILD)/portable CXX="$(CXX) -DSIM_UCONTEXT"

# The same tests under other conditions: each in a folder of its own.
.PHONY: sanitize clang-check
sanitize: ## run the tests under the address and undefined-behaviour sanitizers
	$(need) sanitize build test
	@ASAN_OPTIONS=detect_leaks=0 $(MAKE) --no-print-directory test-run BUILD=$(BUILD)/sanitize \
	    SANITIZE=1 CFLAGS="-O1 -g"
clang-check: ## build and run the tests with clang
	$(need) clang-check build test check
	@$(MAKE) -s --no-print-directory test-run BUILD=$(BUILD)/clang CC=clang

.PHONY: mutants
mutants: $(BUILD)/libkv.a $(BUILD)/libtm.a ## plant known mistakes in ref/; each must fail a vector that names it
	@CC="$(CC)" $(PYTHON) tests/mutants/run.py $(BUILD)

# Fuzzers of everything that reads files: SECONDS for each. What breaks is left in build/fuzz.
SECONDS ?= 60
fuzz_of  = $(filter-out tinymodels/main.c tinymodels/bench.c tinymodels/cmd_%,$(wildcard tinymodels/*.c))
.PHONY: fuzz
fuzz: ## fuzz the readers of files for SECONDS=60 each
	$(need) fuzz build check test
	$(need) fuzz fuzz
	@mkdir -p $(BUILD)/fuzz/crash
	@$(PYTHON) tests/fuzz/seeds.py $(BUILD)/fuzz
	@for f in gguf text; do \
	    clang -std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
	        -ffp-contract=off -Iref -Itinymodels tests/fuzz/fuzz_$$f.c $(fuzz_of) $(wildcard ref/*.c) \
	        -o $(BUILD)/fuzz/fuzz_$$f $(LIBS) || exit 1; \
	    $(BUILD)/fuzz/fuzz_$$f -max_total_time=$(SECONDS) -timeout=10 -verbosity=0 -print_final_stats=1 \
	        -artifact_prefix=$(BUILD)/fuzz/crash/ $(BUILD)/fuzz/$$f >$(BUILD)/fuzz/$$f.log 2>&1 || \
	        { tail -30 $(BUILD)/fuzz/$$f.log; exit 1; }; \
	    awk '/number_of_executed_units/ {print "fuzz_'$$f': nothing broke in", $$2, "runs"}' $(BUILD)/fuzz/$$f.log; \
	done

.PHONY: bench
bench: $(BUILD)/kvsink ## speed and memory on the real model, as a table and JSON
	$(need) bench build $(if $(MODEL),,fetch)
	@[ -n "$(MODEL)" ] || sh tests/tools/fetch.sh $(BUILD)/llm
	@$(MAKE) -s --no-print-directory $(BUILD)/bench
	@$(BUILD)/bench $(or $(MODEL),$(llm)) --json $(BUILD)/bench.json
	@$(PYTHON) tests/cuda/predict.py
	@$(MAKE) -s --no-print-directory gpu-bench

# ---- exercises ----------------------------------------------------------------------------------

# tests/exercises/grade.py is the whole of it; what a kernel or a file of ref/ needs it makes itself.
grader = CC='$(CC)' CXX='$(CXX)' BUILD='$(BUILD)' $(PYTHON) tests/exercises/grade.py
seed   = $(if $(SEED),--seed '$(SEED)')
.PHONY: exercise grade grade-class test-exercises upto upto-all
exercise: ## start an exercise, E=01.2: a file of yours in work/01.2
	$(need) exercise grade
	@$(if $(E),$(grader) start '$(E)',$(grader) list; echo "Choose one: make exercise E=01.2")
grade: ## grade all that you have started (E=01.2: that one; SEED=n: on fresh inputs too)
	$(need) grade grade cuda
	@$(grader) grade $(E) $(seed)
grade-class: ## grade the folders of a class: DIR=submissions CSV=grades.csv SEED=n
	$(need) grade-class grade cuda
	@$(if $(DIR),,echo "say where: make grade-class DIR=submissions [CSV=grades.csv] [SEED=n]"; exit 2;) \
	    $(grader) class '$(DIR)' '$(or $(CSV),grades.csv)' $(seed)
upto: ## build and test with only the code that chapters 1 to N show: N=3
	$(need) upto build test cuda
	@$(MAKE) -s --no-print-directory $(BUILD)/cusim
	@CC='$(CC)' CXX='$(CXX)' $(PYTHON) tests/tools/upto.py '$(N)' $(BUILD)
upto-all: ## the same for every N
	@$(MAKE) -s --no-print-directory upto N=all
test-exercises: ## prove that every exercise can be solved and tells wrong answers (E=01.2: that one)
	$(need) test-exercises grade cuda
	@$(if $(E),,$(PYTHON) tests/exercises/test_grade.py)
	@$(grader) test $(E)

# ---- figures of the README ----------------------------------------------------------------------

.PHONY: readme results readme-check
readme: $(BUILD)/kvsink ## write the README's table and pictures from the result files
	@$(PYTHON) tests/tools/results.py readme
	@$(BUILD)/kvsink handmade -o $(tiny_model) --write-text $(BUILD)/verse.txt >/dev/null
	@$(BUILD)/kvsink sinks $(tiny_model) --file $(BUILD)/verse.txt --png chapters/00-start/sinks.png >/dev/null
	@$(BUILD)/kvsink outliers $(tiny_model) --file $(BUILD)/verse.txt --png chapters/00-start/outliers.png >/dev/null

results: ## measure the README's figures anew (about 20 minutes on two cores)
	$(need) results build test fetch text
	@sh tests/tools/fetch.sh $(BUILD)/llm
	@$(MAKE) -s --no-print-directory texts $(BUILD)/kvsink
	@$(PYTHON) tests/tools/results.py run $(BUILD)

.PHONY: figures
figures: $(BUILD)/kvsink ## run again the short programs whose results chapters quote (N=07: that chapter's)
	$(need) figures build test fetch text book
	@sh tests/tools/fetch.sh $(BUILD)/llm
	@sh tests/tools/texts.sh $(texts) >/dev/null
	@$(PYTHON) tests/tools/study.py profile $(BUILD)
	@BUILD=$(BUILD) PYTHON=$(PYTHON) sh tests/tools/figures.sh $(N)

.PHONY: study study-quick
study: $(BUILD)/kvsink $(experiments) ## the study of chapters 1 to 6, what is not stored yet; can be stopped and goes on (takes hours)
	$(need) study build test fetch text book
	@sh tests/tools/fetch.sh $(BUILD)/llm
	@sh tests/tools/texts.sh $(texts) >/dev/null
	@$(PYTHON) tests/tools/study.py run $(BUILD)
study-quick: $(BUILD)/kvsink ## a handful of the study's cells again, compared with the stored ones (5 minutes)
	$(need) study-quick build test fetch text
	@sh tests/tools/fetch.sh $(BUILD)/llm
	@sh tests/tools/texts.sh $(texts) >/dev/null
	@$(PYTHON) tests/tools/study.py quick $(BUILD)

# Is the table what the result files say, and does one row of each model come out again?
.PHONY: readme-check
readme-check: $(BUILD)/kvsink
	$(need) readme-check build test fetch text
	@sh tests/tools/fetch.sh $(BUILD)/llm
	@sh tests/tools/texts.sh $(texts) >/dev/null
	@$(PYTHON) tests/tools/results.py readme --check
	@$(PYTHON) tests/tools/results.py repeat $(BUILD) tiny-kvsink5 smollm2-8bit

# What CI has no time for: longer fuzzing, the story and the speed of the real model.
.PHONY: check-long
check-long: ## longer checks: fuzzing, the story on the real model, speed (20 minutes)
	@$(MAKE) -s --no-print-directory cuda-report ARCHS=all
	@$(MAKE) -s --no-print-directory fuzz SECONDS=300
	@$(MAKE) -s --no-print-directory llm
	@$(MAKE) -s --no-print-directory bench

.PHONY: vectors
vectors: ## write tests/vectors/ anew from the oracle
	$(PYTHON) tests/oracle/make_vectors.py

# ---- the book -----------------------------------------------------------------------------------

# BOOK=draft lets code stay unshown while chapters are being written.
.PHONY: pictures book test-book check-book check-results
pictures: $(painters) ## draw the chapters' pictures from their results into build/chapters
	@for file in $(drawings); do \
	    chapter=$$(dirname $$file); n=$$(basename $$chapter); mkdir -p $(BUILD)/$$chapter; \
	    $(BUILD)/pictures/$${n%%-*} $$chapter/results $(BUILD)/$$chapter || exit 1; \
	done
book: ## weave chapters and code into build/book/index.html (BOOK=draft: while chapters are missing)
	$(need) book book $(if $(drawings),build)
	@$(MAKE) -s --no-print-directory pictures
	@BUILD=$(BUILD) sh book/build.sh
test-book: ## test the weaver, and look at the book in a browser
	$(need) test-book book browser
	@BUILD=$(BUILD) PYTHON=$(PYTHON) sh tests/weave.sh

# The weaver's tests look at a small book; this one looks at ours.
check-book: book ## look at our own book in a browser: errors, links, overflow, contrast
	$(need) check-book book browser
	@python=python3; $$python -c 'import selenium' 2>/dev/null || python=/usr/bin/python3; \
	    axe=$(BUILD)/axe; [ -d $$axe ] || $$python -m pip install -q --no-deps --target $$axe axe-core-python==0.1.0 || :; \
	    $$python tests/weave/browser.py --chapters $(BUILD)/book $$axe/axe_core_python/axe.min.js

# Results that the book quotes carry the hashes of the sources they come from (book/style.md).
quoted   = $(wildcard $(foreach kind,txt tsv json,chapters/*/results/*.$(kind)))
check-results: ## list results, long ones too, that are older than their sources
	$(need) check-results book
	@BUILD=$(BUILD) sh book/build.sh stale $(quoted)

.PHONY: clean
clean: ## remove what was built (the fetched model stays)
	rm -rf $(filter-out $(BUILD)/llm,$(wildcard $(BUILD)/*))
