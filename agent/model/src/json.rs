//! JSON without white space, as `serde_json` writes it: of data, of which there may be
//! tens of thousands of rows. A serializer of our own, since data is asked for by a trait
//! object and shown through redaction: with serde's traits alone each number passes five
//! of their layers, and only strings have to.

mod key;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::{Display, Write as _};

use serde::ser::{self, Error as _, Serialize, Serializer};
pub use serde_json::Error;

use crate::canonical::Canonical;
use key::Key;

/// A place in an envelope, as an [`Eye`] counts them; `None` is one that it does not know.
pub type Place = Option<usize>;

/// Through which strings are seen.
pub trait Eye {
    /// All begins anew: what was counted so far does not count.
    fn restart(&self);

    /// The place of the member `name` at `place`. `hint` is where to look first: members
    /// mostly come in one order.
    fn member(&self, place: Place, name: &str, hint: &mut usize) -> Place;

    /// The place of the items of the list at `place`.
    fn items(&self, place: Place) -> Place;

    /// A list begins whose items are at `place`.
    fn begin_list(&self, place: Place);

    /// `text` at `place` as it may be shown; whether it `is_item` of a list.
    fn text<'t>(&self, place: Place, text: &'t str, is_item: bool) -> Cow<'t, str>;

    /// Whether every text at `place` is shown as it is.
    fn leaves(&self, place: Place) -> bool;

    /// `key` of a map at `place` as it may be shown, and the place of its value.
    fn key<'t>(&self, place: Place, key: &'t str, hint: &mut usize) -> (Cow<'t, str>, Place);
}

/// Where what is written next stands.
#[derive(Clone, Copy)]
enum At {
    Known {
        place: Place,
        is_item: bool,
    },
    /// A member of what stands at `place`: numbers need not know which.
    Member {
        place: Place,
        name: &'static str,
    },
}

/// Writes JSON.
pub struct Json<'a> {
    pub(crate) out: Canonical<'a>,
    eye: Option<&'a dyn Eye>,
    at: At,
    /// Where the next member is looked for first.
    hint: usize,
    /// For the keys of maps.
    text: String,
}

impl<'a> Json<'a> {
    pub(crate) fn new(out: Canonical<'a>, eye: Option<(&'a dyn Eye, Place)>) -> Self {
        let at = At::Known { place: eye.and_then(|(_, place)| place), is_item: false };
        Self { out, eye: eye.map(|(eye, _)| eye), at, hint: 0, text: String::new() }
    }

    /// The place of what is written now, and whether it is an item of a list.
    fn place(&mut self) -> (Place, bool) {
        match (self.at, self.eye) {
            (At::Known { place, is_item }, _) => (place, is_item),
            (At::Member { place, name }, Some(eye)) => {
                let place = eye.member(place, name, &mut self.hint);
                self.at = At::Known { place, is_item: false };
                (place, false)
            }
            (At::Member { .. }, None) => (None, false),
        }
    }

    fn at(&mut self, place: Place, is_item: bool) {
        self.at = At::Known { place, is_item };
    }

    fn member(&mut self, place: Place, name: &str) -> Place {
        self.eye.and_then(|eye| eye.member(place, name, &mut 0))
    }

    fn number(&mut self, number: impl itoa::Integer) {
        self.out.put(itoa::Buffer::new().format(number).as_bytes());
    }

    /// `"text"`, escaped.
    fn quoted(&mut self, text: &str) {
        // Without a branch for each byte.
        let is_plain = text.bytes().fold(true, |plain, byte| plain & !is_escaped(byte));
        if is_plain {
            return self.out.put_quoted(text);
        }
        self.out.put(b"\"");
        self.escaped(text);
        self.out.put(b"\"");
    }

    fn escaped(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut start = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if !is_escaped(*byte) {
                continue;
            }
            self.out.put(&bytes[start..at]);
            start = at + 1;
            match byte {
                b'"' => self.out.put(b"\\\""),
                b'\\' => self.out.put(b"\\\\"),
                0x08 => self.out.put(b"\\b"),
                0x0c => self.out.put(b"\\f"),
                b'\n' => self.out.put(b"\\n"),
                b'\r' => self.out.put(b"\\r"),
                b'\t' => self.out.put(b"\\t"),
                _ => {
                    const HEX: [u8; 16] = *b"0123456789abcdef";
                    let code = [b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                    self.out.put(&code);
                }
            }
        }
        self.out.put(&bytes[start..]);
    }

    fn key(&mut self, key: &str) {
        self.out.begin_key();
        self.quoted(key);
        self.out.end_key();
    }

    /// `{"variant":`, whose value comes next.
    fn begin_variant(&mut self, variant: &'static str) -> Place {
        let (place, _) = self.place();
        let place = self.member(place, variant);
        self.out.begin_object();
        self.key(variant);
        place
    }

    fn end_variant(&mut self) {
        self.out.end_value();
        self.out.end_object();
    }

    fn begin_list(&mut self, place: Place, in_variant: bool) -> List<'_, 'a> {
        let items = self.eye.and_then(|eye| {
            let items = eye.items(place);
            eye.begin_list(items);
            items
        });
        self.out.begin_array();
        List { json: self, items, is_first: true, in_variant }
    }

    fn begin_members(&mut self, place: Place, in_variant: bool) -> Members<'_, 'a> {
        self.out.begin_object();
        let outer = std::mem::take(&mut self.hint);
        Members { json: self, place, outer, value: None, in_variant }
    }
}

/// Writes what is displayed, escaped.
struct Escaped<'j, 'a>(&'j mut Json<'a>);

impl std::fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.escaped(text);
        Ok(())
    }
}

/// Whether JSON has another way to write `byte`.
fn is_escaped(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

fn no_floats<T>() -> Result<T, Error> {
    Err(Error::custom("data must not hold floating-point numbers"))
}

macro_rules! numbers {
    ($($name:ident: $type:ty),*) => {
        $(fn $name(self, value: $type) -> Result<(), Error> {
            self.number(value);
            Ok(())
        })*
    };
}

impl<'j, 'a> Serializer for &'j mut Json<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = List<'j, 'a>;
    type SerializeTuple = List<'j, 'a>;
    type SerializeTupleStruct = List<'j, 'a>;
    type SerializeTupleVariant = List<'j, 'a>;
    type SerializeMap = Members<'j, 'a>;
    type SerializeStruct = Members<'j, 'a>;
    type SerializeStructVariant = Members<'j, 'a>;

    numbers!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128
    );

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.out.put(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_f32(self, _: f32) -> Result<(), Error> {
        no_floats()
    }

    fn serialize_f64(self, _: f64) -> Result<(), Error> {
        no_floats()
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.quoted(value.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        match self.eye {
            None => self.quoted(text),
            Some(eye) => {
                let (place, is_item) = self.place();
                self.quoted(&eye.text(place, text, is_item));
            }
        }
        Ok(())
    }

    fn collect_str<T: ?Sized + Display>(self, value: &T) -> Result<(), Error> {
        let (place, _) = self.place();
        if self.eye.is_some_and(|eye| !eye.leaves(place)) {
            return self.serialize_str(&value.to_string());
        }
        self.out.put(b"\"");
        write!(Escaped(self), "{value}").map_err(|_| Error::custom("a value cannot be displayed"))?;
        self.out.put(b"\"");
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Error> {
        bytes.serialize(self)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.out.put(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.quoted(variant);
        Ok(())
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        let place = self.begin_variant(variant);
        self.at(place, false);
        value.serialize(&mut *self)?;
        self.end_variant();
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'j, 'a>, Error> {
        let (place, _) = self.place();
        Ok(self.begin_list(place, false))
    }

    fn serialize_tuple(self, length: usize) -> Result<List<'j, 'a>, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<List<'j, 'a>, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<List<'j, 'a>, Error> {
        let place = self.begin_variant(variant);
        Ok(self.begin_list(place, true))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Members<'j, 'a>, Error> {
        let (place, _) = self.place();
        Ok(self.begin_members(place, false))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Members<'j, 'a>, Error> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Members<'j, 'a>, Error> {
        let place = self.begin_variant(variant);
        Ok(self.begin_members(place, true))
    }
}

/// A list that is open.
pub struct List<'j, 'a> {
    json: &'j mut Json<'a>,
    items: Place,
    is_first: bool,
    in_variant: bool,
}

impl List<'_, '_> {
    fn item<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        if !std::mem::take(&mut self.is_first) {
            self.json.out.put(b",");
        }
        self.json.at(self.items, true);
        value.serialize(&mut *self.json)?;
        self.json.out.end_item()
    }

    fn close(self) {
        self.json.out.end_array();
        if self.in_variant {
            self.json.end_variant();
        }
    }
}

macro_rules! list {
    ($trait:ident, $method:ident) => {
        impl ser::$trait for List<'_, '_> {
            type Ok = ();
            type Error = Error;
            fn $method<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
                self.item(value)
            }
            fn end(self) -> Result<(), Error> {
                self.close();
                Ok(())
            }
        }
    };
}

list!(SerializeSeq, serialize_element);
list!(SerializeTuple, serialize_element);
list!(SerializeTupleStruct, serialize_field);
list!(SerializeTupleVariant, serialize_field);

/// A map or struct that is open.
pub struct Members<'j, 'a> {
    json: &'j mut Json<'a>,
    place: Place,
    /// The hint of what this is in.
    outer: usize,
    /// Of a map: the place of the next value.
    value: Place,
    in_variant: bool,
}

impl Members<'_, '_> {
    fn member<T: ?Sized + Serialize>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
        self.json.key(name);
        self.json.at = At::Member { place: self.place, name };
        value.serialize(&mut *self.json)?;
        self.json.out.end_value();
        Ok(())
    }

    fn close(self) {
        self.json.hint = self.outer;
        self.json.out.end_object();
        if self.in_variant {
            self.json.end_variant();
        }
    }
}

macro_rules! members {
    ($trait:ident) => {
        impl ser::$trait for Members<'_, '_> {
            type Ok = ();
            type Error = Error;
            fn serialize_field<T: ?Sized + Serialize>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
                self.member(name, value)
            }
            fn end(self) -> Result<(), Error> {
                self.close();
                Ok(())
            }
        }
    };
}

members!(SerializeStruct);
members!(SerializeStructVariant);

impl ser::SerializeMap for Members<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Error> {
        let mut text = std::mem::take(&mut self.json.text);
        text.clear();
        key.serialize(Key(&mut text))?;
        match self.json.eye {
            None => self.json.key(&text),
            Some(eye) => {
                let (shown, place) = eye.key(self.place, &text, &mut self.json.hint);
                self.value = place;
                self.json.key(&shown);
            }
        }
        self.json.text = text;
        Ok(())
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        self.json.at(self.value, false);
        value.serialize(&mut *self.json)?;
        self.json.out.end_value();
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        self.close();
        Ok(())
    }
}
