//! A datum into a type.

use serde::de::value::U32Deserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::{MISFIT, Misfit, Names};
use crate::framing::shape::{Blocks, Cursor, DOUBLE_BYTES, FLOAT_BYTES, Shape};

/// Reads one value of a shape.
pub(super) struct Decoder<'a, 'de> {
    pub(super) shape: &'a Shape,
    pub(super) cursor: &'a mut Cursor<'de>,
    pub(super) names: Names,
}

fn misfit<T>() -> Result<T, Misfit> {
    Err(Misfit(MISFIT))
}

impl<'de> Deserializer<'de> for Decoder<'_, 'de> {
    type Error = Misfit;

    fn is_human_readable(&self) -> bool {
        false
    }

    /// For types that do not say what they are: ours all do.
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Misfit> {
        misfit()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Shape::Boolean = self.shape else { return misfit() };
        visitor.visit_bool(self.cursor.boolean()?)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Shape::Int = self.shape else { return misfit() };
        visitor.visit_i32(self.cursor.int()?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Shape::Long = self.shape else { return misfit() };
        visitor.visit_i64(self.cursor.long()?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Shape::Float = self.shape else { return misfit() };
        let bytes = self.cursor.take(FLOAT_BYTES)?.first_chunk().ok_or(Misfit(MISFIT))?;
        visitor.visit_f32(f32::from_le_bytes(*bytes))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Shape::Double = self.shape else { return misfit() };
        let bytes = self.cursor.take(DOUBLE_BYTES)?.first_chunk().ok_or(Misfit(MISFIT))?;
        visitor.visit_f64(f64::from_le_bytes(*bytes))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Shape::Text = self.shape else { return misfit() };
        visitor.visit_borrowed_str(self.cursor.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.shape {
            Shape::Bytes => visitor.visit_borrowed_bytes(self.cursor.sized()?),
            Shape::Fixed(bytes) => visitor.visit_borrowed_bytes(self.cursor.take(*bytes)?),
            _ => misfit(),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Shape::Optional(inner) = self.shape else { return misfit() };
        if self.cursor.is_some()? { visitor.visit_some(Self { shape: inner, ..self }) } else { visitor.visit_none() }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Shape::Array { item, min_item_bytes } = self.shape else { return misfit() };
        visitor.visit_seq(
            Items { item, blocks: Blocks::new(*min_item_bytes), cursor: self.cursor, names: self.names, first: None }.begun()?,
        )
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let Shape::Record(fields) = self.shape else { return misfit() };
        let same = || fields.iter().map(|(name, _)| name).eq(names);
        if names.len() != fields.len() || self.names == Names::Compared && !same() {
            return misfit();
        }
        visitor.visit_seq(Fields { left: fields, cursor: self.cursor, names: self.names })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let Shape::Enum(symbols) = self.shape else { return misfit() };
        if symbols.len() != variants.len() || self.names == Names::Compared && !symbols.iter().eq(variants) {
            return misfit();
        }
        let index = self.cursor.symbol(symbols.len())?;
        visitor.visit_enum(Symbol(u32::try_from(index).map_err(|_| Misfit(MISFIT))?))
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 char unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

/// An array's items, over its blocks.
struct Items<'a, 'de> {
    item: &'a Shape,
    blocks: Blocks,
    cursor: &'a mut Cursor<'de>,
    names: Names,
    /// Whether the item that was looked at is there; then it is the next one.
    first: Option<bool>,
}

impl Items<'_, '_> {
    /// Reads the first block's count, which is the hint of how many there are.
    fn begun(mut self) -> Result<Self, Misfit> {
        self.first = Some(self.blocks.next(self.cursor)?.is_some());
        Ok(self)
    }
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let more = match self.first.take() {
            Some(first) => first,
            None => self.blocks.next(self.cursor)?.is_some(),
        };
        if !more {
            // Asked again behind the end, it is the end still.
            self.first = Some(false);
            return Ok(None);
        }
        seed.deserialize(Decoder { shape: self.item, cursor: self.cursor, names: self.names }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.blocks.left() + usize::from(self.first == Some(true)))
    }
}

/// A record's fields, in order.
struct Fields<'a, 'de> {
    left: &'a [(String, Shape)],
    cursor: &'a mut Cursor<'de>,
    names: Names,
}

impl<'de> SeqAccess<'de> for Fields<'_, 'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some(((_, shape), rest)) = self.left.split_first() else { return Ok(None) };
        self.left = rest;
        seed.deserialize(Decoder { shape, cursor: self.cursor, names: self.names }).map(Some)
    }
}

/// One of an enum's symbols, by its index.
struct Symbol(u32);

impl<'de> EnumAccess<'de> for Symbol {
    type Error = Misfit;
    type Variant = Unit;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Unit), Misfit> {
        let index: U32Deserializer<Misfit> = self.0.into_deserializer();
        Ok((seed.deserialize(index)?, Unit))
    }
}

/// What a symbol holds: nothing.
struct Unit;

impl<'de> VariantAccess<'de> for Unit {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Misfit> {
        misfit()
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Misfit> {
        misfit()
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Misfit> {
        misfit()
    }
}
