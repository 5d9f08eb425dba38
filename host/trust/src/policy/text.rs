//! The policy as it stands in its file. An unknown field is an error: a misspelt `revoked_keys` must not pass for an
//! empty one.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use toml::Value;

use crate::{Digest, KeyId, Version};

/// The format's number alone, read first: a server must not take the fields of a newer form for misspelt ones.
#[derive(serde::Deserialize)]
pub(super) struct FormatText {
    pub(super) format: Option<i64>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreText {
    #[serde(rename = "format")]
    pub(super) _format: Option<i64>,
    #[serde(default)]
    pub(super) publisher: Vec<PublisherText>,
    #[serde(default, rename = "rule")]
    pub(super) rules: Vec<RuleText>,
    #[serde(default)]
    pub(super) revoked_keys: Vec<Entry<KeyId, RevokedKeyText>>,
    #[serde(default)]
    pub(super) revoked_digests: Vec<Entry<Digest, RevokedDigestText>>,
    #[serde(default)]
    pub(super) minimum_versions: BTreeMap<String, Version>,
    #[serde(rename = "end")]
    pub(super) _end: Option<EndText>,
}

/// The mark at the end, which holds nothing.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndText {}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublisherText {
    pub(super) name: String,
    /// The short form for one key that does not expire.
    pub(super) public_key: Option<String>,
    #[serde(default, rename = "key")]
    pub(super) keys: Vec<KeyText>,
    #[serde(alias = "optimizers")]
    pub(super) namespaces: Option<Vec<String>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyText {
    pub(super) public_key: String,
    /// Texts, or TOML's own dates.
    pub(super) valid_from: Option<Value>,
    pub(super) valid_until: Option<Value>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleText {
    pub(super) names: Vec<String>,
    pub(super) signers: Vec<String>,
    pub(super) threshold: usize,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokedKeyText {
    pub(super) key: KeyId,
    pub(super) reason: Option<String>,
    pub(super) date: Option<Value>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokedDigestText {
    pub(super) digest: Digest,
    pub(super) reason: Option<String>,
    pub(super) date: Option<Value>,
}

/// A list's entry: the thing itself, or a table that says more about it.
pub(super) enum Entry<Short, Long> {
    Short(Short),
    Long(Long),
}

impl<'de, Short: Deserialize<'de>, Long: Deserialize<'de>> Deserialize<'de> for Entry<Short, Long> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor(PhantomData))
    }
}

struct EntryVisitor<Short, Long>(PhantomData<(Short, Long)>);

impl<'de, Short: Deserialize<'de>, Long: Deserialize<'de>> Visitor<'de> for EntryVisitor<Short, Long> {
    type Value = Entry<Short, Long>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, or a table with it and with `reason` and `date`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Short::deserialize(StrDeserializer::new(text)).map(Entry::Short)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Long::deserialize(MapAccessDeserializer::new(map)).map(Entry::Long)
    }
}
