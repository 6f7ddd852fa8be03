# The two commands of the README. Each does its own set-up and says plainly what is missing.

SHELL := /bin/sh
# Tests mostly wait for processes and services: four at once even on a small machine.
export RUST_TEST_THREADS ?= $(shell n=$$(nproc); [ "$$n" -gt 4 ] && echo "$$n" || echo 4)
.PHONY: demo test bench chaos long

## Everything in one process, with a fleet of real processes on this machine.
demo:
	@./.ci/setup demo
	cargo run --locked -- demo $(ARGS)

## Everything that guards a change: formatting, lints, shell scripts, all tests.
test:
	@./.ci/setup test
	cargo fmt --all --check
	shellcheck -s sh agent-scripts/order agent-scripts/generic/* src/demo/restart.sh docs/deploy/make-secrets .ci/setup
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace
	CAPSTAN_TEST_DATABASE=postgres cargo test --locked --workspace --lib
	CAPSTAN_TEST_DATABASE=mariadb cargo test --locked --workspace --lib
	# Both at once: they mostly wait. Either may fail, and both are waited for.
	CAPSTAN_TEST_DATABASE=postgres cargo test --locked --test it restore:: & postgres=$$!; \
	CAPSTAN_TEST_DATABASE=mariadb cargo test --locked --test it restore::; mariadb=$$?; \
	wait $$postgres && exit $$mariadb

## The figures that the README quotes.
bench:
	cargo bench --locked --bench rollout

## Everything is broken for ten minutes under twenty releases, over each database.
chaos:
	@./.ci/setup test
	CAPSTAN_CHAOS_SEED=$${CAPSTAN_CHAOS_SEED:-$$(date +%s)} \
	CAPSTAN_CHAOS_SECONDS=$${CAPSTAN_CHAOS_SECONDS:-600} \
	CAPSTAN_CHAOS_DEPLOYMENTS=$${CAPSTAN_CHAOS_DEPLOYMENTS:-20} \
	CAPSTAN_CHAOS_TARGETS=$${CAPSTAN_CHAOS_TARGETS:-50-500} \
	cargo test --locked --test it chaos::over_ -- --nocapture --test-threads 1

# The last commit whose schema ends at m0004: processes of it work beside those of this one.
OLDER := 9103fac

## What is too long for `make test`: crash tests over each server, a hundred hosts rolled back, long outages, and
## a rolling upgrade from an older binary, which is built from the history.
long:
	@./.ci/setup test
	CAPSTAN_TEST_DATABASE=postgres cargo test --locked --test it crash
	CAPSTAN_TEST_DATABASE=mariadb cargo test --locked --test it crash
	CAPSTAN_TEST_EMERGENCY_HOSTS=$${CAPSTAN_TEST_EMERGENCY_HOSTS:-100} cargo test --locked --test it emergency::
	for database in postgres mariadb; do \
		CAPSTAN_TEST_DATABASE=$$database CAPSTAN_TEST_OUTAGE_SECONDS=$${CAPSTAN_TEST_OUTAGE_SECONDS:-120} \
		cargo test --locked --test it outages:: || exit 1; \
	done
	rm -rf target/older/$(OLDER)
	mkdir -p target/older/$(OLDER)
	git archive $(OLDER) | tar -x -C target/older/$(OLDER)
	cargo build --locked --bin capstan --manifest-path target/older/$(OLDER)/Cargo.toml --target-dir target/older/target
	for database in postgres mariadb; do \
		CAPSTAN_TEST_DATABASE=$$database CAPSTAN_TEST_OLDER=$(CURDIR)/target/older/target/debug/capstan \
		cargo test --locked --test it upgrade:: -- --ignored || exit 1; \
	done
