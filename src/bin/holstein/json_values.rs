//! The keys and values of a JSON object in a file that a user wrote. A key that is not known is an error, so that nothing is
//! left undone in silence.

use serde_json::{Map, Value};

use crate::output::escape;

/// What has not been asked for yet.
pub(crate) struct Values(Map<String, Value>);

impl Values {
    /// Of a value that has to be an object.
    pub(crate) fn of(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(values) => Ok(Values(values)),
            _ => Err("it is not an object".into()),
        }
    }

    /// Refuses keys that an object of this kind does not have.
    pub(crate) fn refuse_unknown(&self, kind: &str, keys: &[&str]) -> Result<(), String> {
        match self.0.keys().find(|key| !keys.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) if keys.is_empty() => {
                Err(format!("unknown key '{}'; '{kind}' has none", escape(key.as_bytes())))
            }
            Some(key) => {
                let (key, keys) = (escape(key.as_bytes()), keys.join(", "));
                Err(format!("unknown key '{key}'; '{kind}' has {keys}"))
            }
        }
    }

    /// Any value.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    pub(crate) fn optional_text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.0.remove(key) {
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("'{key}' is not a text")),
            None => Ok(None),
        }
    }

    pub(crate) fn text(&mut self, key: &str) -> Result<String, String> {
        self.optional_text(key)?.ok_or_else(|| format!("'{key}' is missing"))
    }

    /// A number of bytes.
    pub(crate) fn number(&mut self, key: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| format!("'{key}' is not a number of bytes"))
    }

    /// True or false; false when it is missing.
    pub(crate) fn switch(&mut self, key: &str) -> Result<bool, String> {
        let Some(value) = self.0.remove(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| format!("'{key}' is neither true nor false"))
    }

    /// A value in the words of its type, if it is given.
    pub(crate) fn parsed<T: std::str::FromStr<Err = holstein::Error>>(
        &mut self,
        key: &str,
    ) -> Result<Option<T>, String> {
        let text = self.optional_text(key)?;
        text.map(|text| text.parse().map_err(|error| format!("'{key}': {error}"))).transpose()
    }

    /// An array.
    pub(crate) fn list(&mut self, key: &str, of: &str) -> Result<Vec<Value>, String> {
        match self.0.remove(key) {
            None => Err(format!("'{key}' is missing")),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(format!("'{key}' is not an array of {of}")),
        }
    }

    /// An array with at least one element.
    pub(crate) fn array(&mut self, key: &str, of: &str) -> Result<Vec<Value>, String> {
        match self.list(key, of)? {
            values if values.is_empty() => Err(format!("'{key}' is empty")),
            values => Ok(values),
        }
    }

    pub(crate) fn names(&mut self, key: &str) -> Result<Vec<Vec<u8>>, String> {
        let name = |value: &Value| value.as_str().map(|name| name.as_bytes().to_vec());
        let names = self.array(key, "names")?.iter().map(name).collect::<Option<_>>();
        names.ok_or_else(|| format!("'{key}' is not an array of names"))
    }
}
