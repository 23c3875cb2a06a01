# Everything below builds its own virtual environment first and needs only Python 3.11+, a C compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE_SOURCES := $(wildcard cext/p2pfill/*.pyx cext/p2pfill/*.pxd)

# Options of `p2pfill demo`, for instance: make demo ARGS="--size 64 --json"
ARGS ?=

# What `make bench-swarm` fills, and where its reports go.
SWARM ?= bench/topologies/*.toml --out docs/reports/swarm

# Options of `python -m bench.night`.
NIGHT ?= --out docs/reports/night

# Options of `python -m bench.fleet`.
FLEET ?=

# Where `make bench` writes its reports, and options for both of its commands.
BENCH ?= --out docs/reports/bench

# Options of `python -m bench.model`.
MODEL ?= --out docs/reports/model

# Options of `python -m bench.rates`.
RATES ?= --out docs/reports/rates

# Options of `python -m bench.micro`.
MICRO ?=

# Options of `python -m bench.planner`.
PLANNER ?= --out docs/reports/planner
# Options of `python -m bench.planner.lab`.
PLANNER_LAB ?= --out docs/reports/planner

# Options of `python -m bench.networks` and `python -m bench.soak`.
NETWORKS ?= --out docs/reports/networks
SOAK ?= --out docs/reports/soak

# Targets and options of `python -m bench.fuzz`.
FUZZ ?= --out docs/reports/fuzz

# Options of `python -m bench.crashes kills` and `power`.
CRASH_KILLS ?= --kills 300 --out docs/reports/crashes
CRASH_POWER ?= --prefixes all --out docs/reports/crashes

# How many processes run the tests that measure no time.
WORKERS ?= 2

.PHONY: help demo test lint bench bench-big bench-swarm bench-night bench-fleet bench-model bench-micro bench-planner bench-planner-lab bench-rates bench-serving bench-networks soak fuzz crash-kills crash-power clean

help:
	@echo "make demo   build, then fill seven caches in three networks on this machine, verify them and clean up"
	@echo '            options of p2pfill demo go in ARGS: make demo ARGS="--size 64 --json"'
	@echo "make test   build, lint and run all tests, in as many processes as WORKERS says (2)"
	@echo "make lint   ruff and mypy only"
	@echo "make bench  p2pfill beside other programs, and one node with many; takes ten minutes"
	@echo '            smaller, and without a report: make bench BENCH="--mib 64 --runs 1"'
	@echo "make bench-big  titles of up to 100 GiB and 200,000 files; takes six minutes"
	@echo "make bench-swarm  all topologies with p2pfill and libtorrent on a lab of network namespaces; needs root, takes an hour"
	@echo '            one of them, once: make bench-swarm SWARM="bench/topologies/3x4.toml --runs 1"'
	@echo "make bench-night  five nights of nine caches in three time zones on the same lab; needs root, takes ten minutes"
	@echo "make bench-fleet  fills of 10 to 20,000 caches in the simulator, with growth curves; takes half an hour on two cores"
	@echo '            some of it: make bench-fleet FLEET="--only growth --sizes 10,100,1000 --out /tmp/fleet"'
	@echo "make bench-model  the simulator beside what bench-swarm has measured; takes three minutes"
	@echo "make bench-micro  how fast small pieces are, with their pure twins, and a tracker of 10,000 nodes; takes five minutes"
	@echo "make bench-planner  forecasts day by day beside other caches, on made worlds and MovieLens; takes ten minutes"
	@echo '            with lists of Netflix: make bench-planner PLANNER="--netflix all-weeks-countries.tsv --out /tmp/planner"'
	@echo "make bench-planner-lab  planned nights beside LRU pull-through caches, all real; needs nginx, takes ten minutes"
	@echo "make bench-rates  how well data streams keep to a limit; takes seven minutes"
	@echo "make bench-serving  viewers of a cache alone, beside fill, and beside fill in background mode; root, seven minutes"
	@echo "make bench-networks  fills through bad networks and from wrong sources; root for partitions, half an hour"
	@echo "make soak   500 links and 1,000 titles on a node and its tracker, watched for what grows; half an hour"
	@echo '            smaller: make soak SOAK="--links 50 --titles 50 --minutes 2"'
	@echo "make fuzz   fuzz every parser that others reach, with atheris; takes hours"
	@echo '            some of it: make fuzz FUZZ="frames manifests --runs 100000"'
	@echo "make crash-kills  kill processes of a fleet 300 times in fills and orders; takes a quarter of an hour"
	@echo '            some roles, fewer: make crash-kills CRASH_KILLS="--kills 20 --roles cache,tracker"'
	@echo "make crash-power  replay losses of power under a cache and a tracker; needs strace, takes a quarter of an hour"
	@echo "make clean  remove what the build made"

# The stamp is renewed when the build's inputs change, so a second run spends no time on set-up.
$(VENV)/.built: pyproject.toml setup.py $(NATIVE_SOURCES)
	@echo "Setting up $(VENV) (once; about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.built
	@$(BIN)/p2pfill demo $(ARGS)

lint: $(VENV)/.built
	$(BIN)/ruff check .
	$(BIN)/mypy

# The second half measures times, rates and copies, so nothing may run beside it; it runs where the first has failed, too.
# Tests start hundreds of processes: they share bytecode, also where the environment says that none is kept.
test: export PYTHONDONTWRITEBYTECODE =
test: lint
	@failed=0; trap 'exit 130' INT; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m 'not alone' || failed=1; \
	$(BIN)/python -m pytest -m alone || failed=1; \
	exit $$failed

bench: $(VENV)/.built
	@$(BIN)/p2pfill bench pair $(BENCH)
	@test ! -d /dev/shm || $(BIN)/p2pfill bench pair --work /dev/shm $(BENCH)
	@$(BIN)/p2pfill bench fanout $(BENCH)

bench-big: $(VENV)/.built
	@$(BIN)/p2pfill bench big --out docs/reports/bench

bench-fleet: $(VENV)/.built
	@$(BIN)/python -m bench.fleet $(FLEET)

bench-model: $(VENV)/.built
	@$(BIN)/python -m bench.model $(MODEL)

bench-micro: $(VENV)/.built
	@$(BIN)/python -m bench.micro $(MICRO)

bench-planner: $(VENV)/.built
	@$(BIN)/python -m bench.planner $(PLANNER)

bench-planner-lab: $(VENV)/.built
	@$(BIN)/python -m bench.planner.lab $(PLANNER_LAB)

bench-rates: $(VENV)/.built
	@$(BIN)/python -m bench.rates $(RATES)

bench-serving: $(VENV)/.built
	@test "$$(id -u)" = 0 || { echo "make bench-serving needs root, to make network namespaces: sudo make bench-serving"; exit 2; }
	@$(BIN)/python -m bench.serving $(SERVING)

bench-networks: $(VENV)/.built
	@$(BIN)/python -m bench.networks $(NETWORKS)

soak: $(VENV)/.built
	@$(BIN)/python -m bench.soak $(SOAK)

bench-swarm: $(VENV)/.built
	@test "$$(id -u)" = 0 || { echo "make bench-swarm needs root, to make network namespaces: sudo make bench-swarm"; exit 2; }
	@command -v ip tc >/dev/null || { echo "make bench-swarm needs iproute2; on Debian: apt-get install iproute2"; exit 2; }
	@$(BIN)/python -m bench.swarm $(SWARM)

bench-night: export PYTHONDONTWRITEBYTECODE =
bench-night: $(VENV)/.built
	@test "$$(id -u)" = 0 || { echo "make bench-night needs root, to make network namespaces: sudo make bench-night"; exit 2; }
	@command -v ip tc >/dev/null || { echo "make bench-night needs iproute2; on Debian: apt-get install iproute2"; exit 2; }
	@$(BIN)/python -m bench.night $(NIGHT)

# atheris has wheels for few machines, so it is installed for this alone.
fuzz: $(VENV)/.built
	@$(BIN)/python -c 'import atheris, pytricia' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@$(BIN)/python -m bench.fuzz $(FUZZ)

crash-kills: $(VENV)/.built
	@$(BIN)/python -m bench.crashes kills $(CRASH_KILLS)

crash-power: $(VENV)/.built
	@$(BIN)/python -m bench.crashes power $(CRASH_POWER)

clean:
	rm -rf $(VENV) build dist *.egg-info p2pfill/*.so
