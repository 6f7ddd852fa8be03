# The two commands of the README. Each does its own set-up and says plainly what is missing.

SHELL := /bin/sh
.PHONY: demo test setup lint bench

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
	CAPSTAN_TEST_DATABASE=postgres cargo test --locked --test it restore::
	CAPSTAN_TEST_DATABASE=mariadb cargo test --locked --test it restore::

## The figures that the README quotes.
bench:
	cargo bench --locked --bench rollout
