//! Lists in pages.

use super::DomainError;

const DEFAULT: usize = 100;
const MOST: usize = 1000;

/// How many to list where so many are asked for; 0 asks for 100.
///
/// # Errors
/// Where more than 1000 are.
pub fn page_size_of(size: u32) -> Result<usize, DomainError> {
    match size as usize {
        0 => Ok(DEFAULT),
        size if size <= MOST => Ok(size),
        size => Err(DomainError::invalid("page_size", "at most 1000", &size.to_string())),
    }
}

/// Cuts a list to one page; the token of the next tells the last key of this one, so that what comes and goes
/// meanwhile shifts nothing.
pub fn cut<T>(list: &mut Vec<T>, size: usize, token: impl FnOnce(&T) -> String) -> String {
    if list.len() <= size {
        return String::new();
    }
    list.truncate(size);
    list.last().map(token).unwrap_or_default()
}
