#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| { let _ = strongroom_tests::root(); let _ = data; });
