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
suites   = $(patsubst tests/%.c,$(BUILD)/test/%,$(wildcard tests/test_*.c))
tools    = $(patsubst tests/tools/%.c,$(BUILD)/tools/%,$(wildcard tests/tools/*.c))
need     = @sh tests/tools/need.sh

.DEFAULT_GOAL := help
.PHONY: help
help: ## this list
	@echo "Attention sinks, KV-cache quantization and KVSink: a book you can run."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "Start with: make demo"

# ---- building -----------------------------------------------------------------------------------

.PHONY: all
all: $(BUILD)/kvsink ## build build/kvsink, the command line

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL) -c $< -o $@

# ref/ is the judge: every warning there is an error.
$(BUILD)/ref/%.o: ref/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL) -Werror -Wconversion -Wno-sign-conversion -c $< -o $@

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
	@rm -f $@
	ar rcs $@ $^
$(BUILD)/libtm.a: $(tiny)
	@rm -f $@
	ar rcs $@ $^
$(BUILD)/kvsink: $(BUILD)/tinymodels/main.o $(BUILD)/libtm.a $(BUILD)/libkv.a
	$(CC) $^ -o $@ $(LIBS)
$(BUILD)/bench: $(BUILD)/tinymodels/bench.o $(BUILD)/libtm.a $(BUILD)/libkv.a
	$(CC) $^ -o $@ $(LIBS)
$(BUILD)/test/%: tests/%.c $(BUILD)/libtm.a $(BUILD)/libkv.a
	@mkdir -p $(@D)
	$(CC) $(ALL) -Itests $< $(BUILD)/libtm.a $(BUILD)/libkv.a -o $@ -lcriterion $(LIBS)
$(BUILD)/tools/%: tests/tools/%.c $(BUILD)/libtm.a $(BUILD)/libkv.a
	@mkdir -p $(@D)
	$(CC) $(ALL) -Itests $< $(BUILD)/libtm.a $(BUILD)/libkv.a -o $@ $(LIBS)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# ---- checking -----------------------------------------------------------------------------------

.PHONY: test
test: need-test ## build and run all tests that need no large model
	@$(MAKE) --no-print-directory test-run

.PHONY: need-test test-run
need-test:
	$(need) test build test
test-run: $(BUILD)/kvsink $(suites) $(tools)
	@$(PYTHON) tests/oracle/make_vectors.py --check
	@KV_BUILD=$(BUILD) sh tests/tools/run.sh $(suites)

.PHONY: vectors
vectors: ## write tests/vectors/ anew from the oracle
	$(PYTHON) tests/oracle/make_vectors.py

.PHONY: clean
clean: ## remove what was built (the fetched model stays)
	rm -rf $(filter-out $(BUILD)/llm,$(wildcard $(BUILD)/*))
