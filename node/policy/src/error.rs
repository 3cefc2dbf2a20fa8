//! What can be wrong with a bundle or a document.

use std::fmt;

/// Why something was refused. Each has a stable [`reason`](Error::reason) for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the manifest, or a path, does not have the form it must have.
    #[error("{field}: {message}")]
    Malformed {
        /// Which one.
        field: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// Something is larger than it may be.
    #[error("{field} is {actual}, at most {limit} is allowed")]
    TooLarge {
        /// What is too large.
        field: String,
        /// The limit, in bytes or pieces as the field says.
        limit: usize,
        /// What was found. For streams that were not read to their end, one more than the limit.
        actual: usize,
    },
    /// The bytes are no bundle, or not in the one form that a bundle has.
    #[error("this is no policy bundle: {0}")]
    Encoding(String),
    /// The bundle's format is newer than this program.
    #[error("the bundle has format {found}; this version of tarn reads format {known}: upgrade tarn, or build the bundle again")]
    Format {
        /// What the bundle says.
        found: u32,
        /// What this program reads.
        known: u32,
    },
    /// A document is no JSON, or nested too deeply.
    #[error("{field} is not usable JSON: {message}")]
    Json {
        /// Which document.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// The modules do not compile.
    #[error("{}", Problems(.0))]
    Compile(Vec<Problem>),
    /// A signature is missing where one is required, or does not fit.
    #[error("{0}")]
    Signature(String),
    /// A folder could not be read or written.
    #[error("{path}: {message}")]
    Folder {
        /// The file or folder.
        path: String,
        /// What happened.
        message: String,
    },
    /// No thread was free to work on it, or it did not end in time.
    #[error("{0}")]
    Unfinished(String),
}

impl Error {
    /// A stable name for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "POLICY_MALFORMED",
            Self::TooLarge { .. } => "POLICY_TOO_LARGE",
            Self::Encoding(_) => "POLICY_ENCODING",
            Self::Format { .. } => "POLICY_FORMAT_UNKNOWN",
            Self::Json { .. } => "POLICY_JSON",
            Self::Compile(_) => "POLICY_DOES_NOT_COMPILE",
            Self::Signature(_) => "POLICY_SIGNATURE",
            Self::Folder { .. } => "POLICY_FOLDER",
            Self::Unfinished(_) => "POLICY_UNFINISHED",
        }
    }

    pub(crate) fn malformed(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Malformed { field: field.into(), message: message.into() }
    }

    /// Refuses `actual` if it is more than `limit`.
    pub(crate) fn at_most(field: impl Into<String>, limit: usize, actual: usize) -> Result<(), Self> {
        if actual > limit { Err(Self::TooLarge { field: field.into(), limit, actual }) } else { Ok(()) }
    }
}

/// One mistake in a module, with its place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The module's path in the bundle.
    pub file: String,
    /// From 1; 0 where the mistake has no place.
    pub line: u32,
    /// From 1; 0 where the mistake has no place.
    pub column: u32,
    /// The text of that line.
    pub source: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.file, self.message);
        }
        let Self { file, line, column, source, message } = self;
        let margin = " ".repeat(line.to_string().len());
        let caret = " ".repeat(column.saturating_sub(1) as usize);
        write!(f, "{file}:{line}:{column}: {message}\n{margin} |\n{line} | {source}\n{margin} | {caret}^")
    }
}

/// Problems below each other.
struct Problems<'a>(&'a [Problem]);

impl fmt::Display for Problems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
