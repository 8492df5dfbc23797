//! The bundle in a form for readers, made once for each bundle there has been instead of for each reader.

use bytes::Bytes;
use identity::TrustBundle;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

type Render = fn(&TrustBundle) -> String;

/// One form of the present bundle.
pub(crate) struct Rendered {
    bundle: watch::Receiver<Arc<TrustBundle>>,
    render: Render,
    last: Mutex<Option<(Arc<TrustBundle>, Bytes)>>,
}

impl Rendered {
    pub(crate) fn new(bundle: watch::Receiver<Arc<TrustBundle>>, render: Render) -> Self {
        Self {
            bundle,
            render,
            last: Mutex::default(),
        }
    }

    /// Of the bundle that there is now. The bytes are shared by all who ask.
    pub(crate) fn bytes(&self) -> Bytes {
        let present = Arc::clone(&self.bundle.borrow());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that is kept cannot be freed, so that no other is ever in its place in memory.
        if let Some((bundle, bytes)) = &*last
            && Arc::ptr_eq(bundle, &present)
        {
            return bytes.clone();
        }
        let bytes = Bytes::from((self.render)(&present));
        *last = Some((present, bytes.clone()));
        bytes
    }
}

impl fmt::Debug for Rendered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rendered").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::TrustDomain;
    use rcgen::KeyPair;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_form_is_made_once_for_each_bundle() {
        let domain = TrustDomain::parse("demo.test").unwrap();
        let key = KeyPair::generate().unwrap();
        let life = Duration::from_secs(3600);
        let validity = crate::profile::Validity::of_ca(SystemTime::now(), life);
        let root = crate::profile::root(&domain, &key, validity).unwrap();
        let root = root.self_signed(&key).unwrap().der().clone();
        let bundle = |sequence| {
            let bundle = TrustBundle::new(domain.clone(), vec![root.clone()], sequence);
            Arc::new(bundle.unwrap())
        };
        let bundles = watch::Sender::new(bundle(1));
        let rendered = Rendered::new(bundles.subscribe(), |of| of.sequence().to_string());
        let first = rendered.bytes();
        assert_eq!(first, "1");
        assert_eq!(rendered.bytes().as_ptr(), first.as_ptr(), "the same bytes");
        bundles.send_replace(bundle(2));
        assert_eq!(rendered.bytes(), "2");
    }
}
