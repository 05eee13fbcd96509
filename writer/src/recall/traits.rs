//! What ranking asks of every fact, in a byte.

use memori_schemas::FactKind;

/// Bits of a fact beside its kind.
const KIND_BITS: u8 = 0x0F;
/// It has one interval, without an end.
const UNBOUNDED: u8 = 0x10;
const DATED: u8 = 0x20;

/// A fact's kind, whether it may not hold, whether it says when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits(pub(super) u8);

impl Traits {
    pub(super) fn of(kind: FactKind, bounded: bool, dated: bool) -> Self {
        let place = FactKind::ALL.iter().position(|one| *one == kind);
        let place = u8::try_from(place.unwrap_or_default()).expect("few kinds");
        Self(place | (u8::from(!bounded) * UNBOUNDED) | (u8::from(dated) * DATED))
    }

    /// Whether there is such a kind.
    pub(super) fn is_good(self) -> bool {
        usize::from(self.0 & KIND_BITS) < FactKind::ALL.len()
    }

    #[inline]
    pub(super) fn kind(self) -> FactKind {
        FactKind::ALL[usize::from(self.0 & KIND_BITS)]
    }

    /// Whether it may be superseded, or not hold yet.
    #[inline]
    pub(super) fn is_bounded(self) -> bool {
        self.0 & UNBOUNDED == 0
    }

    #[inline]
    pub(super) fn is_dated(self) -> bool {
        self.0 & DATED != 0
    }
}
