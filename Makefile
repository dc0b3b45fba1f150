# make demo        see it work: two disks, a full copy, a changed-blocks copy, restored and compared
# make check       everything that has to hold before a change is merged (about 25 minutes on 2 cores)
# make check-long  the same, with the exhaustive forms of the tests, and those that mount small file systems (as root)
# make fuzz        runs each fuzz target for a minute: FUZZ_SECONDS= (see fuzz/README.md)
# make bench       beside QEMU's tools: ROWS= PAIRS= SIZE= DIR= TMPFS= SIDES= (see docs/performance.md)
# make release     optimised: the command in target/release, the libraries for C in target/release/lib
# make install     command, libraries, header, pkg-config and CMake files, Python package, pages:
#                  PREFIX= DESTDIR= LIBDIR= PYTHONDIR= (see docs/embedding.md)
# make header      writes include/holstein.h anew from src/capi
# make clean       removes what was built

CARGO ?= cargo
PYTHON ?= python3
PREFIX ?= /usr/local
DESTDIR ?=

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
RELEASE := $(TARGET)/release
LIBRARIES := $(RELEASE)/lib

# What an incremental build keeps for the next one costs more than it saves here: a change of the library changes all of it.
# What would come instead, an optimization across the parts of each crate, takes a fifth of the compiler's time.
export CARGO_INCREMENTAL ?= 0
export CARGO_PROFILE_DEV_LTO ?= off
export PYTHONPATH := $(CURDIR)/python
export PYTHONDONTWRITEBYTECODE := 1
export HOLSTEIN_LIBRARY := $(LIBRARIES)/libholstein.so

heading = @printf '\n== %s\n' '$(1)'

.PHONY: demo release setup check check-long lint test doc ffi python examples fuzz bench install header clean

demo:
	@tools/setup.sh demo
	@$(CARGO) build --release --locked --quiet
	@$(RELEASE)/holstein demo

# The steps share the machine's cores, so a larger `-j` changes nothing, and the first failure ends it. The release build and
# the documentation come beside the tests: those wait for disks and for QEMU's tools, these have long stretches of one thread.
check: setup
	@$(MAKE) --no-print-directory -j1 lint
	@$(MAKE) --no-print-directory -j2 test release doc
	@$(MAKE) --no-print-directory -j1 ffi python examples
	$(call heading,All checks passed)

check-long: export HOLSTEIN_EXHAUSTIVE := 1
check-long: check
	@tools/setup.sh mounts
	$(CARGO) test --locked --test jobs_full_disk --test reflink_mounts

setup:
	@tools/setup.sh check

lint:
	$(call heading,Format)
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(call heading,Lints)
	$(CARGO) clippy --locked --all-targets --quiet -- -D warnings
	$(call heading,Lints of the library without what only the command needs)
	$(CARGO) clippy --locked --no-default-features --lib --quiet -- -D warnings

test:
	$(call heading,Tests)
	@CARGO='$(CARGO)' $(PYTHON) tools/run_tests.py

doc:
	$(call heading,Documentation)
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --lib --no-deps --quiet

release:
	$(call heading,Release build)
	$(CARGO) build --release --locked
	packaging/libraries.sh '$(RELEASE)' '$(LIBRARIES)'

ffi: release
	$(call heading,C ABI)
	@$(MAKE) --no-print-directory -C ffi-tests check LIBDIR='$(LIBRARIES)' COMMAND='$(RELEASE)/holstein'

python: release
	$(call heading,Python)
	$(PYTHON) python/tests

examples: release
	$(call heading,Examples)
	@PYTHON='$(PYTHON)' tools/examples.sh '$(LIBRARIES)'

fuzz:
	@tools/setup.sh fuzz
	@CARGO='$(CARGO)' tools/fuzz.sh

bench:
	@tools/setup.sh check
	@tools/setup.sh mounts
	$(CARGO) bench --locked --bench compare -- --rows '$(ROWS)' --pairs '$(PAIRS)' --size '$(SIZE)' \
		--dir '$(DIR)' --tmpfs '$(TMPFS)' --sides '$(SIDES)'

install: release
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' LIBRARIES='$(LIBRARIES)' COMMAND='$(RELEASE)/holstein' \
		PYTHON='$(PYTHON)' packaging/install.sh

header:
	@$(MAKE) --no-print-directory -C ffi-tests header

clean:
	$(CARGO) clean --quiet
	rm -rf build
