//! `weir access` against a real moto server.
