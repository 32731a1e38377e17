//! TLS for the TCP side: a certificate chain and its key, by rustls on ring, as the object store uses them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use weir_base::{FileSystem, Kind, OsFileSystem};

use crate::error::{Error, Result};

/// Files in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those between it and the root.
    pub cert: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1, without a password.
    pub key: PathBuf,
}

/// Reads the files.
///
/// # Errors
/// `not_found` or `unavailable` for a file that cannot be read, `invalid` for one that is not what it should be; nothing of a key is told.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let wrong = |path: &Path, what: &str| Error::invalid(format!("{} {what}", path.display()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(&files.cert)?)
        .collect::<Result<_, PemError>>()
        .map_err(|_| wrong(&files.cert, "holds a certificate that cannot be read"))?;
    if chain.is_empty() {
        return Err(wrong(&files.cert, "holds no certificate in PEM form"));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|_| wrong(&files.key, "holds no private key in PEM form without a password"))?;
    let setup = |error| Error::wrap(Kind::Internal, "cannot set up TLS", error);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| {
            let what = format!("certificate {} and key {} do not fit", files.cert.display(), files.key.display());
            Error::wrap(Kind::Invalid, what, error)
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    OsFileSystem.read(path).map_err(|error| Error::io(format!("cannot read {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_do_not_fit_are_told_by_name_and_never_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            OsFileSystem.replace(&path, text.as_bytes()).unwrap();
            path
        };
        let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (ours, theirs) = (made("a"), made("b"));
        let cert = file("cert.pem", &ours.cert.pem());
        let key = file("key.pem", &ours.signing_key.serialize_pem());
        let other = file("other.pem", &theirs.signing_key.serialize_pem());
        let empty = file("empty.pem", "nothing");
        let torn = file("torn.pem", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n");
        let files = |cert: &Path, key: &Path| TlsFiles { cert: cert.into(), key: key.into() };
        assert!(acceptor(&files(&cert, &key)).is_ok());
        let missing = folder.path().join("missing.pem");
        for (cert, key, word) in [
            (&missing, &key, "missing.pem"),
            (&cert, &missing, "missing.pem"),
            (&empty, &key, "holds no certificate"),
            (&torn, &key, "cannot be read"),
            (&cert, &empty, "holds no private key"),
            (&cert, &cert, "holds no private key"),
            (&cert, &other, "do not fit"),
        ] {
            let error = acceptor(&files(cert, key)).err().expect("refused");
            let told = weir_base::error::chain(&error);
            assert!(told.contains(word) && !told.contains("%%%"), "{told}");
        }
    }
}
