//! TLS on the way to a server: which certificates are trusted.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use weir_base::{FileSystem, OsFileSystem};

/// Trusts the certificates in `ca` only; without it those of `SSL_CERT_FILE`, `SSL_CERT_DIR` or the system.
///
/// # Errors
/// When there is nothing to trust.
pub(super) fn config(ca: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let pem = OsFileSystem.read(path).with_context(|| format!("cannot read {}", path.display()))?;
            for found in CertificateDer::pem_slice_iter(&pem) {
                let wrong = || format!("{} holds a certificate that cannot be read", path.display());
                roots.add(found.with_context(wrong)?).with_context(wrong)?;
            }
            if roots.is_empty() {
                bail!("{} holds no certificate in PEM form", path.display());
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
                bail!("no certificates are trusted here{why}; name a file with --ca or SSL_CERT_FILE");
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
