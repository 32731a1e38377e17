//! Object stores on this machine: S3 as moto, Azure as Azurite, Google Cloud Storage as moto behind the names of its XML API (the emulators that
//! the registries offer for it do not speak that API with its conditions, which `object_store` uses).
//!
//! They are programs of the Python environment that `cargo xtask python` makes. A server that is missing is a panic, so that no
//! test passes because it could not run. Each ends with the process that started it, also when that is killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `s3://`
    S3,
    /// `az://`
    Azure,
    /// `gs://`
    Google,
}

/// A running server with one empty bucket.
#[derive(Debug)]
pub struct ObjectServer {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// The bucket's URL.
    pub location: String,
    /// The settings that reach it, by the names that they have in Weir's section `[store]`.
    pub options: Vec<(String, String)>,
}

impl ObjectServer {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(protocol: Protocol) -> Self {
        let name = match protocol {
            Protocol::S3 => "s3",
            Protocol::Azure => "az",
            Protocol::Google => "gs",
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/object_server.py");
        let mut command = Command::new(python());
        command.arg(script).arg(name).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the interpreter named by WEIR_TEST_PYTHON starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the server tells where it is");
        let told: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the {name} server did not start: {error}: {line}"));
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let options = told["options"].as_object().expect("a table").iter();
        Self {
            child,
            address: text(&told["address"]).parse().expect("an address"),
            location: text(&told["location"]),
            options: options.map(|(name, value)| (name.clone(), text(value))).collect(),
        }
    }

    /// The settings, with the server's address replaced by that of a proxy.
    pub fn options_through(&self, proxy: SocketAddr) -> Vec<(String, String)> {
        let (from, to) = (self.address.to_string(), proxy.to_string());
        self.options.iter().map(|(name, value)| (name.clone(), value.replace(&from, &to))).collect()
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        // Its input ends with this, and with it the server.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "the test script says by the environment where its Python is")]
fn python() -> String {
    std::env::var("WEIR_TEST_PYTHON")
        .expect("WEIR_TEST_PYTHON must name a Python with moto and Azurite; `cargo xtask test` makes one")
}
