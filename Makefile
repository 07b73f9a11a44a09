# `make verify` never writes; `make fix` does.

.PHONY: verify fix

verify:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	cargo deny check bans licenses sources

fix:
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty
