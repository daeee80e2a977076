//! Serializing through redaction: every string passes, with the class of its place.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::Display;

use agent_model::{Data, Eye, Place, Seal, Shown};
use serde::ser::{self, Serialize, Serializer};

use super::{Argv, Class, Classes, Node, Redactor};

/// A value that is serialized as it may be shown.
pub struct Redacted<'a, T: ?Sized> {
    value: &'a T,
    how: How<'a>,
}

/// What is known at one place.
#[derive(Clone, Copy)]
struct How<'a> {
    redactor: &'a Redactor,
    classes: &'a Classes,
    node: Option<Node>,
    /// The arguments before, in a list of them.
    argv: Option<&'a RefCell<Argv>>,
    /// Takes the key of a map.
    key: Option<&'a Key>,
}

/// A key of a map: the place of its value, and where to look for it.
#[derive(Default)]
struct Key {
    place: Cell<Option<Node>>,
    hint: Cell<usize>,
}

impl<'a, T: ?Sized> Redacted<'a, T> {
    /// `value`, which stands at `node`.
    pub fn new(value: &'a T, redactor: &'a Redactor, classes: &'a Classes, node: Option<Node>) -> Self {
        Self { value, how: How { redactor, classes, node, argv: None, key: None } }
    }
}

impl<T: Serialize + ?Sized> Serialize for Redacted<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.how.redactor.level() == agent_model::RedactionLevel::Off {
            return self.value.serialize(serializer);
        }
        self.value.serialize(Filter { inner: serializer, how: self.how })
    }
}

/// Data of a command that is shown through redaction.
impl Shown for Redacted<'_, dyn Data> {
    fn row_count(&self) -> Option<usize> {
        self.value.row_count()
    }

    fn row(&self, index: usize) -> Option<Box<dyn erased_serde::Serialize + '_>> {
        let classes = self.how.classes;
        let node = classes.items(classes.field(self.how.node, "rows"));
        let row = self.value.row(index)?;
        Some(Box::new(Row { row, redactor: self.how.redactor, classes, node }))
    }

    fn summary(&self) -> Option<Box<dyn erased_serde::Serialize + '_>> {
        let node = self.how.classes.field(self.how.node, "summary");
        let row = self.value.summary()?;
        Some(Box::new(Row { row, redactor: self.how.redactor, classes: self.how.classes, node }))
    }

    fn is_absent(&self) -> bool {
        self.value.is_absent()
    }

    fn write_json(&self, to: &mut dyn std::io::Write) -> std::io::Result<()> {
        let eye = Lens::new(self.how);
        agent_model::write_json(self.value, (&eye, self.how.node.map(Node::index)), to)
    }

    fn page(&self, width: usize) -> Option<String> {
        // Sentences are made of what was redacted before they were; a name may still stand in one.
        let page = self.value.page(width)?;
        let lines =
            page.split_inclusive('\n').map(|line| super::scrubbed(self.how.redactor.level(), line).into_owned());
        Some(lines.collect())
    }
}

impl<'a> Redacted<'a, dyn Data> {
    /// The digest of what is shown, and its JSON if it has no more than `most` bytes. What was counted as removed
    /// before is not.
    ///
    /// # Errors
    ///
    /// As [`agent_model::digest`].
    pub fn seal(&self, most: usize) -> Result<Seal, serde_json::Error> {
        let eye = Lens::new(self.how);
        eye.restart();
        agent_model::seal(self.value, (&eye, self.how.node.map(Node::index)), most)
    }
}

/// Strings as redaction shows them.
struct Lens<'a> {
    how: How<'a>,
    is_off: bool,
    argv: RefCell<Argv>,
}

impl<'a> Lens<'a> {
    fn new(how: How<'a>) -> Self {
        let is_off = how.redactor.level() == agent_model::RedactionLevel::Off;
        Self { how, is_off, argv: RefCell::default() }
    }

    fn class(&self, place: Place) -> Class {
        self.how.classes.class(place.map(Node::at))
    }
}

impl Eye for Lens<'_> {
    fn restart(&self) {
        self.how.redactor.restart();
    }

    fn member(&self, place: Place, name: &str, hint: &mut usize) -> Place {
        let at = Cell::new(*hint);
        let (found, _) = self.how.classes.next_field(place.map(Node::at), name, &at);
        *hint = at.get();
        found.map(Node::index)
    }

    fn items(&self, place: Place) -> Place {
        self.how.classes.items(place.map(Node::at)).map(Node::index)
    }

    fn begin_list(&self, place: Place) {
        if self.class(place) == Class::Argv {
            self.argv.take();
        }
    }

    fn text<'t>(&self, place: Place, text: &'t str, is_item: bool) -> Cow<'t, str> {
        let redactor = self.how.redactor;
        match self.class(place) {
            _ if self.is_off => Cow::Borrowed(text),
            Class::Argv if is_item => redactor.argument(&mut self.argv.borrow_mut(), text),
            Class::Argv => redactor.argument(&mut Argv::default(), text),
            class => redactor.text(class, text),
        }
    }

    fn leaves(&self, place: Place) -> bool {
        self.is_off || self.how.redactor.leaves(self.class(place))
    }

    fn key<'t>(&self, place: Place, key: &'t str, hint: &mut usize) -> (Cow<'t, str>, Place) {
        let at = Cell::new(*hint);
        let (found, is_declared) = self.how.classes.next_field(place.map(Node::at), key, &at);
        *hint = at.get();
        // The name of a field is ours.
        let class = if is_declared { Class::Word } else { Class::Name };
        let shown = if self.is_off { Cow::Borrowed(key) } else { self.how.redactor.text(class, key) };
        (shown, found.map(Node::index))
    }
}

struct Row<'a> {
    row: &'a dyn erased_serde::Serialize,
    redactor: &'a Redactor,
    classes: &'a Classes,
    node: Option<Node>,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Redacted::new(self.row, self.redactor, self.classes, self.node).serialize(serializer)
    }
}

struct Filter<'a, S> {
    inner: S,
    how: How<'a>,
}

impl<'a> How<'a> {
    fn at(self, node: Option<Node>) -> Self {
        Self { node, argv: None, key: None, ..self }
    }

    fn field(self, name: &str) -> Self {
        self.at(self.classes.field(self.node, name))
    }

    fn wrap<'b, T: ?Sized>(self, value: &'b T) -> Redacted<'b, T>
    where
        'a: 'b,
    {
        Redacted { value, how: self }
    }
}

macro_rules! pass {
    ($($name:ident: $type:ty),*) => {
        $(fn $name(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$name(value)
        })*
    };
}

impl<'a, S: Serializer> Serializer for Filter<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Seq<'a, S::SerializeSeq>;
    type SerializeTuple = Seq<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Seq<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Seq<'a, S::SerializeTupleVariant>;
    type SerializeMap = Members<'a, S::SerializeMap>;
    type SerializeStruct = Members<'a, S::SerializeStruct>;
    type SerializeStructVariant = Members<'a, S::SerializeStructVariant>;

    pass!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_i128: i128, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_u128: u128, serialize_f32: f32, serialize_f64: f64, serialize_char: char, serialize_bytes: &[u8]
    );

    fn serialize_str(self, text: &str) -> Result<S::Ok, S::Error> {
        let How { redactor, classes, node, argv, key } = self.how;
        if let Some(key) = key {
            let (place, is_declared) = classes.next_field(node, text, &key.hint);
            key.place.set(place);
            // The name of a field is ours.
            let class = if is_declared { Class::Word } else { Class::Name };
            return self.inner.serialize_str(&redactor.text(class, text));
        }
        let shown = match (classes.class(node), argv) {
            (Class::Argv, Some(argv)) => redactor.argument(&mut argv.borrow_mut(), text),
            (Class::Argv, None) => redactor.argument(&mut Argv::default(), text),
            (class, _) => redactor.text(class, text),
        };
        self.inner.serialize_str(&shown)
    }

    fn collect_str<T: ?Sized + Display>(self, value: &T) -> Result<S::Ok, S::Error> {
        match self.how.classes.class(self.how.node) {
            class if self.how.key.is_none() && self.how.redactor.leaves(class) => self.inner.collect_str(value),
            _ => self.serialize_str(&value.to_string()),
        }
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&self.how.wrap(value))
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_struct(name, &self.how.wrap(value))
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_variant(name, index, variant, &self.how.field(variant).wrap(value))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        Ok(Seq::new(self.inner.serialize_seq(length)?, self.how))
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        Ok(Seq::new(self.inner.serialize_tuple(length)?, self.how))
    }

    fn serialize_tuple_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        Ok(Seq::new(self.inner.serialize_tuple_struct(name, length)?, self.how))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let how = self.how.field(variant);
        Ok(Seq::new(self.inner.serialize_tuple_variant(name, index, variant, length)?, how))
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Ok(Members { inner: self.inner.serialize_map(length)?, how: self.how, key: Key::default() })
    }

    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        Ok(Members { inner: self.inner.serialize_struct(name, length)?, how: self.how, key: Key::default() })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let inner = self.inner.serialize_struct_variant(name, index, variant, length)?;
        Ok(Members { inner, how: self.how.field(variant), key: Key::default() })
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// A list. Arguments know those before them.
struct Seq<'a, I> {
    inner: I,
    how: How<'a>,
    argv: RefCell<Argv>,
}

impl<'a, I> Seq<'a, I> {
    fn new(inner: I, how: How<'a>) -> Self {
        let how = how.at(how.classes.items(how.node));
        Self { inner, how, argv: RefCell::default() }
    }
}

/// The members of a map or a struct.
struct Members<'a, I> {
    inner: I,
    how: How<'a>,
    /// The last key, and with it the place of the next value of a map.
    key: Key,
}

macro_rules! list {
    ($trait:ident, $method:ident) => {
        impl<I: ser::$trait> ser::$trait for Seq<'_, I> {
            type Ok = I::Ok;
            type Error = I::Error;
            fn $method<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), I::Error> {
                let how = How { argv: Some(&self.argv), ..self.how };
                self.inner.$method(&how.wrap(value))
            }
            fn end(self) -> Result<I::Ok, I::Error> {
                self.inner.end()
            }
        }
    };
}

list!(SerializeSeq, serialize_element);
list!(SerializeTuple, serialize_element);
list!(SerializeTupleStruct, serialize_field);
list!(SerializeTupleVariant, serialize_field);

macro_rules! members {
    ($trait:ident) => {
        impl<I: ser::$trait> ser::$trait for Members<'_, I> {
            type Ok = I::Ok;
            type Error = I::Error;
            fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), I::Error> {
                let (place, _) = self.how.classes.next_field(self.how.node, key, &self.key.hint);
                self.inner.serialize_field(key, &self.how.at(place).wrap(value))
            }
            fn skip_field(&mut self, key: &'static str) -> Result<(), I::Error> {
                self.inner.skip_field(key)
            }
            fn end(self) -> Result<I::Ok, I::Error> {
                self.inner.end()
            }
        }
    };
}

members!(SerializeStruct);
members!(SerializeStructVariant);

impl<I: ser::SerializeMap> ser::SerializeMap for Members<'_, I> {
    type Ok = I::Ok;
    type Error = I::Error;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), I::Error> {
        let how = How { key: Some(&self.key), argv: None, ..self.how };
        self.inner.serialize_key(&how.wrap(key))
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), I::Error> {
        self.inner.serialize_value(&self.how.at(self.key.place.get()).wrap(value))
    }

    fn end(self) -> Result<I::Ok, I::Error> {
        self.inner.end()
    }
}
