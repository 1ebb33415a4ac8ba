# sdconsul.h: `make help` lists what there is. Everything is built below build/.
# The header is compiled once at -O2 for demo and examples, and once in each group of tests.

CC       ?= cc
CXX      ?= c++
B        ?= build
TEST_OPT ?= -O1 -g
OPT      ?= -O2 -g
WARN     := -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual \
            -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla
CSTD     := -std=gnu99
# V=1 shows the commands
Q        := $(if $(V),,@)
# what sanitizers and coverage add to everything, the tests' own servers included
EXTRA    ?=
JOBS     := $(shell nproc 2>/dev/null || echo 2)
MAKEFLAGS += -j$(JOBS) --no-print-directory
SHELL := /bin/sh

CFLAGS_ALL := $(CSTD) $(WARN) $(EXTRA)
SUITE      := $(wildcard ../shared/json-suite)

EXAMPLES := discover poll register watch call whole $(if $(filter Linux,$(shell uname -s)),epoll)
GROUPS   := decoders watch requests calls
# the entries decoder in each way it can be built: a name, and what the compiler is told for it
VARIANTS := fast plain words plain_words
DEFINES_plain       := -DSDC_NO_FAST_PATH
DEFINES_words       := -DSDC_NO_SIMD
DEFINES_plain_words := -DSDC_NO_FAST_PATH -DSDC_NO_SIMD
SUPPORT  := test world script rig world_agent
AGENT    := $(basename $(notdir $(filter-out tests/agent/main.c,$(wildcard tests/agent/*.c))))
CONTRACT := $(basename $(notdir $(wildcard tests/contract/*.c)))
FUZZERS  := json entries http
FLEET    := tests/sim/fleet_model.c tests/sim/fleet_ours.c tests/sim/fleet_peers.c
SIM_SEEDS ?= 300
SIM      := catalog model answer locals watch keeper upkeep calls drive story

SUPPORT_O  := $(SUPPORT:%=$(B)/support/%.o)
AGENT_O    := $(AGENT:%=$(B)/agent/%.o)
CONTRACT_O := $(CONTRACT:%=$(B)/contract/%.o)
GROUP_X    := $(GROUPS:%=$(B)/group_%)
VARIANT_X  := $(VARIANTS:%=$(B)/variant_%)
EXAMPLE_X  := $(EXAMPLES:%=$(B)/%)
REPLAY_X   := $(FUZZERS:%=$(B)/replay_%)
SIM_O      := $(SIM:%=$(B)/sim_o/%.o) $(B)/support/test.o $(B)/support/world.o

.PHONY: help demo test test-build asan tsan matrix cross fuzz bench bench-readme guard test-consul \
    test-cluster test-faults soak sim fleet examples lint clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo         three instances, an agent and a watch: the main job in a few seconds'
	@echo 'make test         every hermetic test; ends with N passed, N failed, N skipped'
	@echo 'make examples     the programs of examples/, into $(B)/'
	@echo 'make sim          SEEDS=20000 stories on a simulated world, from seed FROM=1 on'
	@echo 'make test-consul  contract and end-to-end tests on two real agents (gets them first)'
	@echo 'make test-cluster four real agents: killed, cut off, restored; prints how long watches take'
	@echo 'make test-faults  500 rounds of faults and changes on two real agents (SEED, ROUNDS, WORLDS)'
	@echo 'make soak         the same for MINUTES=60; memory and descriptors must not grow'
	@echo 'make fleet        100,000 watches while all agents restart, by simulation (two minutes)'
	@echo 'make asan         the tests under AddressSanitizer and UBSan'
	@echo 'make tsan         the tests of threads under ThreadSanitizer'
	@echo 'make matrix       compilers, standards, optimisation and macros crossed'
	@echo 'make cross        the tests of the decoders on aarch64 and s390x, by qemu (needs clang)'
	@echo 'make fuzz         the fuzz targets with libFuzzer, SECONDS=60 each (needs clang)'
	@echo 'make bench        decoder, watch and picks beside other libraries, as ratios (PART=pick)'
	@echo 'make bench-readme the figures of the last make bench into README.md'
	@echo 'make guard        instructions for each byte and pick, not more than recorded (valgrind)'
	@echo 'make lint         the numbers of the house style'
	@echo 'make clean        removes $(B)/'

# ---- objects -------------------------------------------------------------------------------------

$(B) $(B)/support $(B)/agent $(B)/contract $(B)/fuzz $(B)/sim_o:
	@mkdir -p $@

$(B)/sdconsul.o: examples/sdconsul.c sdconsul.h | $(B)
	$(Q)$(CC) $(CFLAGS_ALL) $(OPT) -I. -c $< -o $@

$(B)/support/%.o: tests/support/%.c $(wildcard tests/support/*.h tests/agent/*.h) sdconsul.h | $(B)/support
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) -c $< -o $@

$(B)/agent/%.o: tests/agent/%.c $(wildcard tests/agent/*.h) sdconsul.h | $(B)/agent
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) -c $< -o $@

$(B)/contract/%.o: tests/contract/%.c $(wildcard tests/contract/*.h tests/agent/*.h) sdconsul.h | $(B)/contract
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) -c $< -o $@

# ---- demo and examples ---------------------------------------------------------------------------

$(EXAMPLE_X): $(B)/%: examples/%.c $(wildcard examples/*.h) $(B)/sdconsul.o sdconsul.h
	$(Q)$(CC) $(CFLAGS_ALL) $(OPT) -I. $< $(B)/sdconsul.o -o $@ $(if $(filter call whole,$*),-lpthread)

examples: $(EXAMPLE_X) $(B)/demo

$(B)/demo: examples/demo.c $(AGENT_O) $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(OPT) -I. $< $(AGENT_O) $(B)/sdconsul.o -o $@ -lpthread

demo: $(B)/demo
	@sh examples/demo.sh $(B)/demo $(CONSUL)

# ---- tests ---------------------------------------------------------------------------------------

$(B)/embedded_agent: tests/agent/main.c $(AGENT_O) $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $^ -o $@ -lpthread

$(B)/group_%: tests/group_%.c $(wildcard tests/test_*.c tests/support/*.h fuzz/*.h) sdconsul.h $(SUPPORT_O) $(AGENT_O)
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $< $(SUPPORT_O) $(AGENT_O) -o $@ -lpthread

$(VARIANT_X): $(B)/variant_%: tests/variant.c tests/test_entries.c tests/test_differential.c \
    $(wildcard fuzz/*.h) sdconsul.h $(B)/support/test.o
	$(Q)$(CC) $(CFLAGS_ALL) -Wno-unused-function $(TEST_OPT) $(DEFINES_$*) \
	    $(if $(DEFINES_$*),-DDIFFERENTIAL_BODIES=5000) $< $(B)/support/test.o -o $@ -lpthread

$(B)/self: tests/support/self.c $(B)/support/test.o $(B)/support/world.o $(B)/support/script.o
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $^ -o $@ -lpthread

$(B)/self_agent: tests/support/self_agent.c $(SUPPORT_O) $(AGENT_O) $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $^ -o $@ -lpthread

$(B)/self_agent_core: tests/agent/self/self_agent_core.c $(B)/support/test.o $(AGENT_O) $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $^ -o $@ -lpthread

$(B)/test_contract: $(CONTRACT_O) $(AGENT_O) $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $^ -o $@ -lpthread

$(B)/threads $(B)/clock: $(B)/%: tests/%.c $(B)/support/test.o $(AGENT_O) $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $^ -o $@ -lpthread

$(B)/test_consul: tests/test_consul.c tests/consul/wants.h $(B)/support/test.o $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $(filter-out %.h,$^) -o $@ -lpthread

$(B)/test_cluster: tests/consul/cluster.c tests/consul/wants.h $(B)/support/test.o $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $(filter-out %.h,$^) -o $@ -lpthread

$(B)/fuzz/%.o: fuzz/%.c $(wildcard fuzz/*.h) sdconsul.h | $(B)/fuzz
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) -c $< -o $@

$(REPLAY_X): $(B)/replay_%: $(B)/fuzz/fuzz_%.o $(B)/fuzz/replay.o $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $^ -o $@

$(B)/fleet: tests/sim/fleet.c $(FLEET) $(wildcard tests/sim/fleet*.h) $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(OPT) tests/sim/fleet.c $(FLEET) $(B)/sdconsul.o -o $@

$(B)/fleet_test: tests/sim/fleet_test.c $(FLEET) $(wildcard tests/sim/fleet*.h) $(B)/support/test.o $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(OPT) tests/sim/fleet_test.c $(FLEET) $(B)/support/test.o $(B)/sdconsul.o -o $@

$(B)/sim_o/%.o: tests/sim/%.c $(wildcard tests/sim/*.h tests/support/*.h) sdconsul.h | $(B)/sim_o
	$(Q)$(CC) $(CFLAGS_ALL) $(OPT) -c $< -o $@
$(B)/sim: $(B)/sim_o/main.o $(SIM_O) $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(OPT) $^ -o $@ -lpthread
$(B)/sim_o/broken.h: tests/sim/break.sh sdconsul.h | $(B)/sim_o
	$(Q)sh tests/sim/break.sh sdconsul.h $@
$(B)/sim_o/broken.o: $(B)/sim_o/broken.h
	$(Q)$(CC) $(CFLAGS_ALL) -O0 -g -DSDCONSUL_IMPLEMENTATION -x c -c $< -o $@
$(B)/sim_breaks: tests/sim/main.c $(SIM_O) $(B)/sim_o/broken.o
	$(Q)$(CC) $(CFLAGS_ALL) $(OPT) -DSIM_BREAKS $^ -o $@ -lpthread
TEST_X := $(GROUP_X) $(VARIANT_X) $(B)/self $(B)/self_agent $(B)/self_agent_core $(B)/test_contract $(REPLAY_X) \
    $(B)/threads $(B)/clock $(B)/fleet_test $(B)/sim $(B)/sim_breaks \
    $(B)/embedded_agent

test-build: $(TEST_X) $(EXAMPLE_X) $(B)/demo

test: test-build
	@SDC_JSON_SUITE="$(SUITE)" CC="$(CC)" CXX="$(CXX)" B="$(B)" sh tests/support/tap.sh -j $(JOBS) \
	    '$(B)/sim --tap $(SIM_SEEDS)' $(B)/group_requests $(B)/group_watch $(B)/group_calls \
	    $(B)/group_decoders \
	    $(B)/test_contract $(B)/sim_breaks \
	    '$(B)/variant_fast first_half' '$(B)/variant_fast second_half' \
	    $(filter-out $(B)/variant_fast,$(VARIANT_X)) \
	    $(B)/fleet_test $(B)/self $(B)/self_agent 'sh tests/support/self_tap.sh' \
	    $(foreach f,$(FUZZERS),'$(B)/replay_$(f) fuzz/corpus/$(f)') \
	    'sh tests/test_names.sh' 'sh tests/test_table.sh' \
	    'sh tests/test_examples.sh $(B)' $(B)/threads $(B)/clock $(B)/self_agent_core

test-consul: $(B)/test_contract $(B)/test_consul
	@tests/consul/run.sh $(B)/test_contract $(B)/test_consul

test-cluster: $(B)/test_cluster
	@tests/consul/cluster.py $(B)/test_cluster

$(B)/test_faults: tests/consul/faults.c tests/consul/wants.h $(B)/sdconsul.o
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_OPT) $(filter-out %.h,$^) -o $@

# the agents' answers are spoiled and judged by Python; without it there is nothing to run
FAULTS := tests/consul/get.sh && python3 tests/consul/faults.py $(B)/test_faults \
    $(if $(SEED),--seed $(SEED)) $(if $(WORLDS),--worlds $(WORLDS))

test-faults: $(B)/test_faults
	@python3 tests/consul/proxy_test.py
	@$(FAULTS) --rounds $(or $(ROUNDS),500)

soak: $(B)/test_faults
	@$(FAULTS) --minutes $(or $(MINUTES),60)

sim: $(B)/sim
	@$(B)/sim --jobs $(JOBS) --from $(or $(FROM),1) $(or $(SEEDS),20000)

fleet: $(B)/fleet
	@$(B)/fleet

asan:
	@$(MAKE) test B=build/asan SIM_SEEDS=100 TEST_OPT='-O1 -g' OPT='-O1 -g' \
	    EXTRA='-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer'

# THREADS_MS: how long the longest of them goes on
tsan:
	@$(MAKE) build/tsan/threads B=build/tsan TEST_OPT='-O1 -g' OPT='-O1 -g' \
	    EXTRA='-fsanitize=thread -fno-omit-frame-pointer'
	@THREADS_MS=$(or $(THREADS_MS),3000) TSAN_OPTIONS='halt_on_error=0 exitcode=66' \
	    build/tsan/threads

matrix:
	@sh tests/matrix.sh $(B)/matrix

cross:
	@JOBS=$(JOBS) sh tests/cross.sh $(B)/cross

bench:
	@sh tests/bench/run.sh $(B) $(PART)

bench-readme:
	@python3 tests/bench/report.py --readme $(B)/bench/results.json README.md
	@python3 tests/bench/report_pick.py --readme $(B)/bench/pick.json README.md

guard:
	@sh tests/bench/guard.sh $(B)

FUZZ_SECONDS := $(or $(SECONDS),60)
fuzz:
	@sh fuzz/run.sh $(B)/fuzz $(FUZZ_SECONDS) $(FUZZERS)

lint:
	@sh tests/lint.sh

clean:
	rm -rf build
