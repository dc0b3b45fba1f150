//! Gives the shared library its soname; writes nothing into the source tree.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The soname names the ABI, and the ABI goes with the major version.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libholstein.so.{}", env!("CARGO_PKG_VERSION_MAJOR"));
}
