//! Where a test keeps its store: a folder of its own, or a prefix of its own in the bucket of a real server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use weir_sim::{ObjectServer, Protocol};

use super::*;

/// A store's place; what is in a folder goes with the last clone.
#[derive(Clone)]
pub(super) struct Place {
    location: String,
    provider: Vec<(String, String)>,
    _folder: Option<Arc<tempfile::TempDir>>,
}

impl Place {
    pub(super) fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().to_str().unwrap().to_owned();
        Self { location, provider: Vec::new(), _folder: Some(Arc::new(folder)) }
    }

    pub(super) fn s3() -> Self {
        static SERVER: OnceLock<ObjectServer> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| ObjectServer::start(Protocol::S3)))
    }

    pub(super) fn azure() -> Self {
        static SERVER: OnceLock<ObjectServer> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| ObjectServer::start(Protocol::Azure)))
    }

    pub(super) fn google() -> Self {
        static SERVER: OnceLock<ObjectServer> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| ObjectServer::start(Protocol::Google)))
    }

    /// A prefix that no other test of this process has.
    pub(super) fn on(server: &ObjectServer) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let location = format!("{}/test {number}", server.location);
        Self { location, provider: server.options.clone(), _folder: None }
    }

    pub(super) fn through(self, options: Vec<(String, String)>) -> Self {
        Self { provider: options, ..self }
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) fn options(&self) -> StoreOptions {
        StoreOptions { provider: self.provider.iter().cloned().collect(), ..StoreOptions::default() }
    }
}
