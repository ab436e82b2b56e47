# make help lists the targets. CC, CFLAGS, LDFLAGS and LDLIBS are respected.
CC ?= cc
CFLAGS ?= -O2
LDLIBS ?= -lm -lpthread
PYTHON ?= python3

# What `make chat` talks to, and `make bench` measures: a .llm file, or a GGUF file, which is
# converted once.
MODEL ?= models/smollm2-135m-instruct.gguf

# One compiler per core, unless -j was given.
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
endif

EXAMPLES = chat generate tokenize evaluate bench profile jobs minimal
TOOLS = llm-convert llm-inspect
PROGRAMS = $(EXAMPLES:%=build/%) $(TOOLS:%=build/%)
BUILD = $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS)

.PHONY: all chat test bench compare quality counts format clean help
.DELETE_ON_ERROR:

all: $(PROGRAMS) ## build the programs into build/ (this is what `make` does)

build models:
	@mkdir -p $@

$(EXAMPLES:%=build/%): build/%: examples/%.c examples/options.h examples/probe.h llm.h | build
	$(BUILD) -o $@ $< $(LDLIBS)

CONVERT_HEADERS := $(wildcard tools/convert/*.h)
build/llm-convert: tools/convert/convert.c $(CONVERT_HEADERS) llm.h | build
	$(BUILD) -o $@ $< $(LDLIBS)
build/llm-inspect: tools/convert/inspect.c $(CONVERT_HEADERS) llm.h | build
	$(BUILD) -o $@ $< $(LDLIBS)

models/smollm2-135m-instruct.gguf: | models
	@$(PYTHON) tools/fetch.py smollm2
models/gemma-3-270m.gguf: | models
	@$(PYTHON) tools/fetch.py gemma

# `model` becomes the .llm file; a converted one is kept under models/. Only the two models that can
# be fetched are ever made here; a path of one's own has to exist.
CONVERTED = $(MODEL:%.gguf=models/$(notdir $(basename $(MODEL))).llm)
FETCHED = $(if $(wildcard $(CONVERTED)),,$(filter models/smollm2-135m-instruct.gguf models/gemma-3-270m.gguf,$(MODEL)))
define FIND_MODEL
case "$(MODEL)" in \
*.gguf) model="models/$$(basename "$(MODEL)" .gguf).llm"; \
    if ! test -e "$$model" || test "$(MODEL)" -nt "$$model"; then \
        build/llm-convert "$(MODEL)" "$$model" || exit 1; fi;; \
*) model="$(MODEL)";; \
esac
endef

chat: all $(FETCHED) | models ## fetch a small model once, convert it, and talk to it; MODEL=path takes any .llm or .gguf
	@$(FIND_MODEL); exec build/chat "$$model" $(ARGS)

test: all ## run the tests
	$(PYTHON) tests/run.py

bench: all $(FETCHED) | models ## measure prefill and decode; MODEL=path
	@$(FIND_MODEL); exec build/bench "$$model" -t 1,$$(getconf _NPROCESSORS_ONLN) $(ARGS)

compare: all | models ## the same beside llama.cpp, turn by turn, into docs/performance.md and the README; ARGS="--quick"
	@exec $(PYTHON) tools/compare/compare.py $(ARGS)

quality: all | models ## divergence from an original against size, beside llama.cpp, into docs/quality.md; ARGS="--print --only q4"
	@exec $(PYTHON) tools/quality/quality.py $(ARGS)

counts: ## record the instruction counts that the tests compare with (valgrind)
	$(PYTHON) tests/instructions.py --update

format: ## format the sources with clang-format
	clang-format -i examples/*.c examples/*.h tools/convert/*.c tools/convert/*.h tests/*.c tests/*.h

clean: ## remove build/; models/ stays
	rm -rf build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24
