#![no_main]
#[global_allocator]
static ALLOCATOR: strongroom_tests::hostile::memory::Counting = strongroom_tests::hostile::memory::Counting;

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_tests::hostile::target("archive").run(data));
