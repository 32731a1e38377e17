//! Links the binary at a fixed address where it can be: as a position-independent executable the loader spends 4 ms of each start on
//! 300,000 relocations, more than most commands of the cache take. `docs/adr/fixed-address.md` weighs it.

#![allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]
#![allow(clippy::disallowed_methods, reason = "cargo tells build scripts by environment variables")]

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
