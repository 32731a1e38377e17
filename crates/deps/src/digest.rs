//! SHA-256, the hash that package indexes publish.

use sha2::Digest;

/// Lower-case hexadecimal SHA-256.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    weir_base::checksum::hex(&sha2::Sha256::digest(bytes))
}
