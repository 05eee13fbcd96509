//! A type into a datum.

use serde::Serialize;
use serde::ser::{Impossible, SerializeSeq, SerializeStruct, Serializer};

use super::{MISFIT, Misfit, Names};
use crate::framing::shape::Shape;

/// Writes one value of a shape.
pub(super) struct Encoder<'a> {
    pub(super) shape: &'a Shape,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) names: Names,
}

/// A zigzag varint.
pub(super) fn long(number: i64, out: &mut Vec<u8>) {
    let mut bits = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while bits >= 0x80 {
        out.push(bits.to_le_bytes()[0] | 0x80);
        bits >>= 7;
    }
    out.push(bits.to_le_bytes()[0]);
}

fn count(number: usize, out: &mut Vec<u8>) -> Result<(), Misfit> {
    long(i64::try_from(number).map_err(|_| Misfit(MISFIT))?, out);
    Ok(())
}

fn misfit<T>() -> Result<T, Misfit> {
    Err(Misfit(MISFIT))
}

impl<'a> Serializer for Encoder<'a> {
    type Ok = ();
    type Error = Misfit;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Impossible<(), Misfit>;
    type SerializeTupleStruct = Impossible<(), Misfit>;
    type SerializeTupleVariant = Impossible<(), Misfit>;
    type SerializeMap = Impossible<(), Misfit>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Impossible<(), Misfit>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), Misfit> {
        let Shape::Boolean = self.shape else { return misfit() };
        self.out.push(u8::from(value));
        Ok(())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Misfit> {
        let Shape::Int = self.shape else { return misfit() };
        long(value.into(), self.out);
        Ok(())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Misfit> {
        let Shape::Long = self.shape else { return misfit() };
        long(value, self.out);
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Misfit> {
        let Shape::Float = self.shape else { return misfit() };
        self.out.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Misfit> {
        let Shape::Double = self.shape else { return misfit() };
        self.out.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Misfit> {
        let Shape::Text = self.shape else { return misfit() };
        count(value.len(), self.out)?;
        self.out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Misfit> {
        match self.shape {
            Shape::Bytes => count(value.len(), self.out)?,
            Shape::Fixed(bytes) if *bytes == value.len() => {}
            _ => return misfit(),
        }
        self.out.extend_from_slice(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Misfit> {
        let Shape::Optional(_) = self.shape else { return misfit() };
        self.out.push(0);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Misfit> {
        let Shape::Optional(inner) = self.shape else { return misfit() };
        long(1, self.out);
        value.serialize(Self { shape: inner, ..self })
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, variant: &'static str) -> Result<(), Misfit> {
        let Shape::Enum(symbols) = self.shape else { return misfit() };
        let same = |symbol: &String| self.names == Names::Known || symbol == variant;
        if usize::try_from(index).ok().and_then(|index| symbols.get(index)).is_none_or(|symbol| !same(symbol)) {
            return misfit();
        }
        long(index.into(), self.out);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Misfit> {
        value.serialize(self)
    }

    fn serialize_seq(self, items: Option<usize>) -> Result<Items<'a>, Misfit> {
        let (Shape::Array { item, .. }, Some(items)) = (self.shape, items) else { return misfit() };
        if items > 0 {
            count(items, self.out)?;
        }
        Ok(Items { item, out: self.out, names: self.names, left: items })
    }

    fn serialize_struct(self, _: &'static str, fields: usize) -> Result<Fields<'a>, Misfit> {
        match self.shape {
            Shape::Record(all) if all.len() == fields => Ok(Fields { left: all, out: self.out, names: self.names }),
            _ => misfit(),
        }
    }

    fn serialize_i8(self, _: i8) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_i16(self, _: i16) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_u8(self, _: u8) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_u16(self, _: u16) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_u32(self, _: u32) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_u64(self, _: u64) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_char(self, _: char) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_unit(self) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Misfit> {
        misfit()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Misfit> {
        misfit()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Misfit> {
        misfit()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Misfit> {
        misfit()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Misfit> {
        misfit()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Misfit> {
        misfit()
    }
}

/// An array: one block, and the empty one that ends it.
pub(super) struct Items<'a> {
    item: &'a Shape,
    out: &'a mut Vec<u8>,
    names: Names,
    /// Of those that the block's count promised.
    left: usize,
}

impl SerializeSeq for Items<'_> {
    type Ok = ();
    type Error = Misfit;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Misfit> {
        self.left = self.left.checked_sub(1).ok_or(Misfit(MISFIT))?;
        value.serialize(Encoder { shape: self.item, out: self.out, names: self.names })
    }

    fn end(self) -> Result<(), Misfit> {
        if self.left > 0 {
            return misfit();
        }
        self.out.push(0);
        Ok(())
    }
}

/// A record, field by field.
pub(super) struct Fields<'a> {
    left: &'a [(String, Shape)],
    out: &'a mut Vec<u8>,
    names: Names,
}

impl SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = Misfit;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Misfit> {
        let Some(((field, shape), rest)) = self.left.split_first() else { return misfit() };
        if self.names == Names::Compared && field != name {
            return misfit();
        }
        self.left = rest;
        value.serialize(Encoder { shape, out: self.out, names: self.names })
    }

    fn end(self) -> Result<(), Misfit> {
        if self.left.is_empty() { Ok(()) } else { misfit() }
    }
}
