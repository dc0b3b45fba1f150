//! What the fuzz targets share: the judges, which live with the tests; a bound on memory; and mutators that put right
//! what would otherwise stop every mutated input at the door.

#[path = "../../tests/support/builder/mod.rs"]
pub mod builder;
#[path = "../../tests/support/fuzz/mod.rs"]
pub mod judges;
pub mod memory;
pub mod repair;

/// A fuzz target: its judge, and its mutator.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[global_allocator]
        static ALLOCATOR: $crate::memory::Bounded = $crate::memory::Bounded::new();

        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            $crate::judges::$name::judge(data);
            ALLOCATOR.settled();
        });

        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let size = match $crate::repair::structured(seed) {
                true => size,
                false => libfuzzer_sys::fuzzer_mutate(data, size, max_size),
            };
            $crate::repair::$name(&mut data[..size], seed);
            size
        });
    };
}
