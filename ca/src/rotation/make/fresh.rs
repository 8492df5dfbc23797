//! Keys between being made and being recorded.

use crate::config::OpenOptions;
use crate::keys;
use crate::rotation::Generations;
use zeroize::Zeroizing;

/// The files of keys that were made and are recorded nowhere yet. Of those in a token that are still here when this is dropped,
/// the log names the object: nothing else would ever tell of it.
#[derive(Default)]
pub(super) struct Fresh(Vec<Zeroizing<String>>);

impl Fresh {
    pub(super) fn add(&mut self, key: Zeroizing<String>) {
        self.0.push(key);
    }

    /// Lets go of those that an authority has.
    pub(super) fn recorded(&mut self, present: &Generations) {
        let all = present.0.iter();
        self.0
            .retain(|key| !all.clone().any(|one| one.key.0.as_ref() == Some(key)));
    }

    /// Takes what nobody has recorded, and nobody will, out of the token again. Blocks, like all that a token does.
    pub(super) fn destroy(mut self, options: &OpenOptions) {
        self.0.retain(|key| {
            let destroyed = keys::destroy(key, options);
            if let Err(error) = &destroyed {
                tracing::warn!(%error, "a key that nobody uses is not destroyed");
            }
            destroyed.is_err()
        });
    }

    /// Those that are in a token.
    pub(super) fn objects(&self) -> Vec<String> {
        let objects = self.0.iter().map(|key| keys::object_in_token(key));
        objects.flatten().collect()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let objects = self.objects();
        if !objects.is_empty() {
            tracing::warn!(
                ?objects,
                "keys that were just made stay in the token: delete those that no authority has"
            );
        }
    }
}
