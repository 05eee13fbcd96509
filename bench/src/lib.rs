//! Ratios against floors and peers.
