#!/bin/sh
# A wrapper of rustc (RUSTC_WRAPPER) that adds coverage for libFuzzer to the crates of this project, and to no other:
# the fuzzer follows our branches, and libraries are built as everywhere else. The flags are those of cargo-fuzz;
# none of them needs a nightly compiler.
rustc=$1
shift
case " $* " in
*" --crate-name strongroom "* | *" --crate-name strongroom_tests "*)
	exec "$rustc" "$@" --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
		-Cllvm-args=-sanitizer-coverage-level=4 \
		-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
		-Cllvm-args=-sanitizer-coverage-pc-table \
		-Cllvm-args=-sanitizer-coverage-trace-compares
	;;
*) exec "$rustc" "$@" ;;
esac
