//! Groups of tensors: which tensor belongs to which, and the settings each has.

use std::sync::Arc;

use stepbox_sandbox::{AdmittedComponent, Description, Settings, SettingsError, TensorDescription};
use stepbox_wire::{DeployOptions, TensorFilter};
use thiserror::Error;
use wildmatch::WildMatch;

/// Most groups of a deployment. Recipes in use have two to ten; one for each layer of a deep model stays below.
pub const MAX_GROUPS: usize = 256;

/// Most patterns, or tags, of one group.
pub const MAX_GROUP_PATTERNS: usize = 64;

/// Longest pattern, in bytes: as long as the longest key.
pub const MAX_PATTERN_BYTES: usize = stepbox_wire::MAX_KEY_BYTES;

/// Longest name of a group, in bytes: a status has it once for each key.
pub const MAX_GROUP_NAME_BYTES: usize = 64;

/// How the tensors of a group are treated.
#[derive(Debug, Clone)]
pub(crate) struct Treatment {
    pub settings: Arc<Settings>,
    /// The learning rate is the schedule's times this.
    pub learning_rate_multiplier: f64,
}

/// The groups of a deployment, in order.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    /// Of tensors in no group.
    otherwise: Treatment,
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Group {
    name: String,
    filter: Filter,
    treatment: Treatment,
}

#[derive(Debug, Clone)]
struct Filter {
    keys: Vec<WildMatch>,
    tags: Vec<String>,
    axes: std::ops::RangeInclusive<usize>,
}

/// Why groups, or what they set, were refused. The operator's fault.
#[derive(Debug, Error)]
pub(crate) enum GroupError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("group {group}: {source}")]
    GroupSettings { group: String, source: SettingsError },
    #[error("{0} groups, at most {MAX_GROUPS} are allowed; let patterns take more tensors each")]
    TooMany(usize),
    #[error("a group's name is {0:?}; give it 1 to {MAX_GROUP_NAME_BYTES} bytes of printable characters")]
    Name(String),
    #[error("group {0} is there twice")]
    Repeated(String),
    #[error("group {0} does not say which tensors it takes; set `keys`, `tags`, `minimum_axes` or `maximum_axes`")]
    NoCondition(String),
    #[error("group {0} has more than {MAX_GROUP_PATTERNS} keys or tags; write patterns with `*`")]
    TooManyPatterns(String),
    #[error(
        "group {group}: {pattern:?} is no pattern for keys: 1 to {MAX_PATTERN_BYTES} bytes of printable characters, \
         `*` for any of them, `?` for one"
    )]
    Pattern { group: String, pattern: String },
    #[error("group {group}: {tag:?} is no tag: a word of at most {} bytes", stepbox_wire::MAX_TAG_BYTES)]
    Tag { group: String, tag: String },
    #[error("group {group} takes tensors of at least {minimum} and at most {maximum} axes, so none")]
    Axes { group: String, minimum: usize, maximum: usize },
    #[error("group {group}: {optimizer}'s {name} has one value for all tensors; set it outside of groups")]
    NotPerGroup { group: String, optimizer: String, name: String },
    #[error("group {group}: learning_rate_multiplier = {multiplier} must be a number that is not below 0")]
    Multiplier { group: String, multiplier: f64 },
}

impl Groups {
    /// Checks the groups and all hyperparameters against a component's schema.
    pub fn new(component: &AdmittedComponent, options: &DeployOptions) -> Result<Self, GroupError> {
        let DeployOptions { learning_rate, hyperparameters: base, groups, .. } = options;
        if groups.len() > MAX_GROUPS {
            return Err(GroupError::TooMany(groups.len()));
        }
        let otherwise = component.configure(*learning_rate, base)?;
        let description = component.description();
        let mut checked: Vec<Group> = Vec::with_capacity(groups.len());
        for group in groups {
            let name = check_name(&group.name)?;
            if checked.iter().any(|other| other.name == name) {
                return Err(GroupError::Repeated(name));
            }
            if let Some(entry) = one_for_all(description, &group.hyperparameters) {
                let optimizer = description.name.clone();
                return Err(GroupError::NotPerGroup { group: name, optimizer, name: entry.to_owned() });
            }
            let multiplier = group.learning_rate_multiplier;
            if !(multiplier.is_finite() && multiplier >= 0.0) {
                return Err(GroupError::Multiplier { group: name, multiplier });
            }
            let is_own = |entry: &str| group.hyperparameters.iter().any(|(own, _)| own == entry);
            let values: Vec<_> =
                base.iter().filter(|(entry, _)| !is_own(entry)).chain(&group.hyperparameters).cloned().collect();
            let settings = component
                .configure(*learning_rate, &values)
                .map_err(|source| GroupError::GroupSettings { group: name.clone(), source })?;
            let treatment = Treatment { settings: Arc::new(settings), learning_rate_multiplier: multiplier };
            checked.push(Group { filter: Filter::new(&name, &group.tensors)?, name, treatment });
        }
        let otherwise = Treatment { settings: Arc::new(otherwise), learning_rate_multiplier: 1.0 };
        Ok(Self { otherwise, groups: checked })
    }

    /// The peak of a schedule where none is given.
    pub fn learning_rate(&self) -> f64 {
        self.otherwise.settings.learning_rate()
    }

    /// The tensor with its group, the first that takes it, and how it is treated.
    pub fn place(&self, tensor: &TensorDescription) -> (TensorDescription, Treatment) {
        let group = self.groups.iter().find(|group| group.filter.takes(tensor));
        let (name, treatment) = group.map_or(("", &self.otherwise), |group| (&group.name, &group.treatment));
        (TensorDescription { group: name.to_owned(), ..tensor.clone() }, treatment.clone())
    }

    /// All groups' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|group| group.name.as_str())
    }

    /// What learning rates are multiplied with, by group; tensors in no group come first, without a name.
    pub fn multipliers(&self) -> impl Iterator<Item = (&str, f64)> {
        let named = self.groups.iter().map(|group| (group.name.as_str(), group.treatment.learning_rate_multiplier));
        std::iter::once(("", self.otherwise.learning_rate_multiplier)).chain(named)
    }
}

/// The first of these hyperparameters that cannot differ between groups.
fn one_for_all<'a>(description: &Description, values: &'a [(String, String)]) -> Option<&'a str> {
    let declared = |name: &str| description.hyperparameters.iter().find(|entry| entry.name == name);
    values.iter().map(|(name, _)| name.as_str()).find(|name| declared(name).is_some_and(|entry| !entry.per_group))
}

fn check_name(name: &str) -> Result<String, GroupError> {
    if name.is_empty() || name.len() > MAX_GROUP_NAME_BYTES || name.contains(char::is_control) {
        return Err(GroupError::Name(name.chars().take(MAX_GROUP_NAME_BYTES).collect()));
    }
    Ok(name.to_owned())
}

impl Filter {
    fn new(group: &str, filter: &TensorFilter) -> Result<Self, GroupError> {
        let TensorFilter { keys, tags, minimum_axes, maximum_axes } = filter;
        let group = || group.to_owned();
        if keys.is_empty() && tags.is_empty() && minimum_axes.is_none() && maximum_axes.is_none() {
            return Err(GroupError::NoCondition(group()));
        }
        if keys.len() > MAX_GROUP_PATTERNS || tags.len() > MAX_GROUP_PATTERNS {
            return Err(GroupError::TooManyPatterns(group()));
        }
        let wrong = |text: &str, longest| text.is_empty() || text.len() > longest || text.contains(char::is_control);
        if let Some(pattern) = keys.iter().find(|pattern| wrong(pattern, MAX_PATTERN_BYTES)) {
            return Err(GroupError::Pattern { group: group(), pattern: pattern.clone() });
        }
        if let Some(tag) = tags.iter().find(|tag| wrong(tag, stepbox_wire::MAX_TAG_BYTES)) {
            return Err(GroupError::Tag { group: group(), tag: tag.clone() });
        }
        let (minimum, maximum) =
            (minimum_axes.unwrap_or(0) as usize, maximum_axes.map_or(usize::MAX, |axes| axes as usize));
        if minimum > maximum {
            return Err(GroupError::Axes { group: group(), minimum, maximum });
        }
        let keys = keys.iter().map(|pattern| WildMatch::new(pattern)).collect();
        Ok(Self { keys, tags: tags.clone(), axes: minimum..=maximum })
    }

    fn takes(&self, tensor: &TensorDescription) -> bool {
        let key = || self.keys.is_empty() || self.keys.iter().any(|pattern| pattern.matches(&tensor.name));
        let tag = || self.tags.is_empty() || self.tags.iter().any(|tag| tensor.tags.contains(tag));
        self.axes.contains(&tensor.shape.len()) && tag() && key()
    }
}

#[cfg(test)]
mod tests {
    use stepbox_sandbox::{Domain, Hyperparameter, NumberRange};

    use super::*;

    #[test]
    fn a_hyperparameter_that_is_one_for_all_tensors_is_found() {
        let entry = |name: &str, per_group| Hyperparameter {
            name: name.into(),
            documentation: String::new(),
            domain: Domain::Boolean { default: false },
            per_group,
        };
        let (minimum, maximum) = (0.0, 1.0);
        let description = Description {
            name: "sample".into(),
            documentation: String::new(),
            learning_rate: NumberRange {
                minimum,
                maximum,
                minimum_included: true,
                maximum_included: true,
                default: 0.5,
            },
            needs_loss: false,
            largest_whole_tensor: None,
            hyperparameters: vec![entry("decay", true), entry("nesterov", false)],
        };
        let set = |names: &[&str]| names.iter().map(|name| ((*name).into(), "true".into())).collect::<Vec<_>>();
        assert_eq!(one_for_all(&description, &set(&["decay", "nesterov"])), Some("nesterov"));
        assert_eq!(one_for_all(&description, &set(&["decay", "unknown"])), None);
    }

    fn filter(keys: &[&str], tags: &[&str], minimum: Option<u32>, maximum: Option<u32>) -> TensorFilter {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        TensorFilter { keys: owned(keys), tags: owned(tags), minimum_axes: minimum, maximum_axes: maximum }
    }

    fn takes(filter: TensorFilter, name: &str, axes: usize, tags: &[&str]) -> bool {
        let tensor = TensorDescription {
            name: name.into(),
            shape: vec![2; axes],
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            ..TensorDescription::default()
        };
        Filter::new("sample", &filter).expect("a filter").takes(&tensor)
    }

    #[test]
    fn every_condition_that_is_set_must_hold() {
        let norms = || filter(&["*.bias", "*norm?.*"], &[], None, Some(1));
        assert!(takes(norms(), "layer.0.bias", 1, &[]));
        assert!(takes(norms(), "layer.0.norm1.scale", 1, &[]));
        assert!(!takes(norms(), "layer.0.norm1.scale", 2, &[]), "too many axes");
        assert!(!takes(norms(), "layer.0.weight", 1, &[]), "no pattern");
        assert!(takes(filter(&[], &[], None, Some(1)), "anything", 0, &[]));
        assert!(takes(filter(&[], &["embedding"], Some(2), None), "table", 2, &["large", "embedding"]));
        assert!(!takes(filter(&[], &["embedding"], None, None), "embedding", 2, &["large"]));
    }

    #[test]
    fn all_characters_but_two_stand_for_themselves() {
        let bias = || filter(&["['params']['Dense_?']['bias']"], &[], None, None);
        assert!(takes(bias(), "['params']['Dense_0']['bias']", 1, &[]));
        assert!(!takes(bias(), "p", 1, &[]));
        assert!(takes(filter(&["{a,b}.größe*"], &[], None, None), "{a,b}.größe", 1, &[]));
    }

    #[test]
    fn filters_that_cannot_be_meant_are_refused() {
        let long = "k".repeat(MAX_PATTERN_BYTES + 1);
        for (wrong, expected) in [
            (filter(&[], &[], None, None), "does not say which tensors"),
            (filter(&[""], &[], None, None), "is no pattern"),
            (filter(&["a\n"], &[], None, None), "is no pattern"),
            (filter(&[&long], &[], None, None), "is no pattern"),
            (filter(&["k"; MAX_GROUP_PATTERNS + 1], &[], None, None), "more than 64"),
            (filter(&[], &[""], None, None), "is no tag"),
            (filter(&[], &[], Some(2), Some(1)), "so none"),
        ] {
            let error = Filter::new("sample", &wrong).expect_err(expected).to_string();
            assert!(error.contains(expected) && error.contains("sample"), "{error}");
        }
        for name in ["", "a\tb", &long] {
            assert!(matches!(check_name(name), Err(GroupError::Name(_))));
        }
    }
}
