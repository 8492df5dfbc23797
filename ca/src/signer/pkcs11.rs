//! Keys in a PKCS#11 token: an HSM, a smart card, SoftHSM. They are made there and never leave it.
//!
//! The key file of such a key says which object it is, and what its public key is (see `Reference`). It does not say
//! which library to load: who can write to the CA's directory must not thereby run code in the CA.

use super::{CaKey, SignError, prove};
use crate::csr::PublicKey;
use crate::keys::Passphrase;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::RawAuthPin;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

mod reference;
mod sessions;

pub(crate) use reference::{HELD_IN, Reference};
use sessions::Sessions;

/// `id-prime256v1`, DER: the curve as `CKA_EC_PARAMS` has it.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// What `CKA_EC_POINT` has before an uncompressed P-256 point: it is a DER OCTET STRING (PKCS#11 3.0 section 2.3.3).
const POINT_HEADER: [u8; 2] = [0x04, 65];

/// A library's state is the process's, and so is this lock: shared during every call into one, and held alone to start
/// one anew. The number says how often that happened: what was opened before is gone.
static LIBRARY: RwLock<u64> = RwLock::new(0);

fn library() -> RwLockReadGuard<'static, u64> {
    LIBRARY.read().unwrap_or_else(PoisonError::into_inner)
}

/// What it takes to use a token: the library that speaks to it, its label, and its user PIN.
#[derive(Debug, Clone)]
pub struct Token {
    pub module: PathBuf,
    pub label: String,
    pub pin: Passphrase,
}

/// Makes a key in `token` that cannot be taken out of it. Where that fails nothing is left there.
pub(crate) fn generate(token: &Token, label: &str) -> Result<(CaKey, Reference), SignError> {
    let device = Device::load(token)?;
    let library = library();
    let session = device.log_in(Purpose::Change)?;
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).expect("AWS-LC's generator aborts rather than fail");
    let named = [
        Attribute::Token(true),
        Attribute::KeyType(KeyType::EC),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    let public = [
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(P256.to_vec()),
    ];
    let private = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ];
    let (public, _) = session
        .generate_key_pair(
            &Mechanism::EccKeyPairGen,
            &[&named[..], &public].concat(),
            &[&named[..], &private].concat(),
        )
        .map_err(device.fault())?;
    let public = device.public_key(&session, public);
    drop((session, library));
    let opened = public.and_then(|public| open_as(device, id.to_vec(), public));
    if opened.is_err() {
        // Why it cannot be used is worth more than why it could not be taken back.
        let _ = remove(token, &id);
    }
    opened
}

/// Takes the key that `reference` names, and no other, out of `token` for good.
pub(crate) fn destroy(token: &Token, reference: &Reference) -> Result<(), SignError> {
    let device = Device::load(token)?;
    let library = library();
    let session = device.log_in(Purpose::Sign)?;
    let id = Attribute::Id(reference.id.clone());
    let public = device.one(&session, ObjectClass::PUBLIC_KEY, id)?;
    if device.public_key(&session, public)? != reference.public {
        return Err(SignError::OtherKey);
    }
    drop((session, library));
    remove(token, &reference.id)
}

/// The private key first: without it the public one is nothing.
fn remove(token: &Token, id: &[u8]) -> Result<(), SignError> {
    let device = Device::load(token)?;
    let _library = library();
    let session = device.log_in(Purpose::Change)?;
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        let object = device.one(&session, class, Attribute::Id(id.to_vec()))?;
        session.destroy_object(object).map_err(device.fault())?;
    }
    Ok(())
}

/// The one key labelled `label` that is in `token` already.
pub(crate) fn existing(token: &Token, label: &str) -> Result<(CaKey, Reference), SignError> {
    let device = Device::load(token)?;
    let library = library();
    let session = device.log_in(Purpose::Sign)?;
    let labelled = Attribute::Label(label.as_bytes().to_vec());
    let private = device.one(&session, ObjectClass::PRIVATE_KEY, labelled)?;
    let wanted = [AttributeType::Extractable, AttributeType::Id];
    let attributes = session
        .get_attributes(private, &wanted)
        .map_err(device.fault())?;
    if !stays_inside(&attributes) {
        return Err(device.says(format!(
            "expected the key {label:?} to be marked as not extractable, as whoever takes it out is the CA"
        )));
    }
    let id = attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            Attribute::Id(id) => Some(id),
            _ => None,
        })
        .filter(|id| !id.is_empty())
        .ok_or_else(|| device.says(format!("expected the key {label:?} to have an ID")))?;
    let public = device.one(&session, ObjectClass::PUBLIC_KEY, Attribute::Id(id.clone()))?;
    let public = device.public_key(&session, public)?;
    drop((session, library));
    open_as(device, id, public)
}

/// Whether a token says of a key that it cannot be taken out. One that says nothing does not.
fn stays_inside(attributes: &[Attribute]) -> bool {
    attributes.contains(&Attribute::Extractable(false))
}

/// The key that `reference` names, once it has proven to be the one whose public key is written there.
pub(crate) fn open(token: &Token, reference: Reference) -> Result<CaKey, SignError> {
    let device = Device::load(token)?;
    open_as(device, reference.id, reference.public).map(|(key, _)| key)
}

fn open_as(
    device: Device,
    id: Vec<u8>,
    public: PublicKey,
) -> Result<(CaKey, Reference), SignError> {
    let reference = Reference {
        id: id.clone(),
        public: public.clone(),
    };
    let sessions = Sessions::start(KeyInToken {
        device,
        id,
        public: public.clone(),
    })?;
    let key = CaKey::new(public, sessions);
    key.prove()?;
    Ok((key, reference))
}

/// A loaded module, and the token to find in it.
struct Device {
    pkcs11: Pkcs11,
    token: String,
    pin: RawAuthPin,
}

/// What a session is for.
#[derive(Clone, Copy)]
enum Purpose {
    Sign,
    /// Making keys takes a session that may write.
    Change,
}

impl Device {
    fn load(token: &Token) -> Result<Self, SignError> {
        let pkcs11 = Pkcs11::new(&token.module).map_err(|error| SignError::Token {
            token: token.label.clone(),
            fault: format!("cannot load {}: {error}", token.module.display()),
        })?;
        let device = Self {
            pkcs11,
            token: token.label.clone(),
            pin: RawAuthPin::new(Box::new(token.pin.reveal().to_vec())),
        };
        let _library = library();
        device.initialize()?;
        Ok(device)
    }

    fn initialize(&self) -> Result<(), SignError> {
        let threads = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match self.pkcs11.initialize(threads) {
            // By another key of this process.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
            Err(error) => Err(self.fault()(error)),
        }
    }

    /// Starts the library anew, since some look for tokens only then. Sessions of other keys end with it; they open
    /// theirs again. Does nothing while any call is under way: one that hangs must not make the others wait for it.
    fn restart(&self) -> Result<(), SignError> {
        let Ok(mut restarts) = LIBRARY.try_write() else {
            return Ok(());
        };
        *restarts += 1;
        // Where it fails there is nothing to end, or initialising says more.
        let _ = self.pkcs11.clone().finalize();
        self.initialize()
    }

    /// A session in which the user is logged in. The login itself is one for all sessions with the token (PKCS#11 3.0
    /// section 5.6.8).
    fn log_in(&self, purpose: Purpose) -> Result<Session, SignError> {
        let slots = self.pkcs11.get_slots_with_token().map_err(self.fault())?;
        let mut found = slots.into_iter().filter(|slot| {
            let info = self.pkcs11.get_token_info(*slot);
            info.is_ok_and(|info| info.token_initialized() && info.label() == self.token)
        });
        let slot = match (found.next(), found.next()) {
            (Some(slot), None) => slot,
            (None, _) => return Err(self.says("no such token is present")),
            (Some(_), Some(_)) => return Err(self.says("several tokens have this label")),
        };
        let session = match purpose {
            Purpose::Sign => self.pkcs11.open_ro_session(slot),
            Purpose::Change => self.pkcs11.open_rw_session(slot),
        }
        .map_err(self.fault())?;
        match session.login_with_raw(UserType::User, &self.pin) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => Err(self.fault()(error)),
        }
    }

    /// The one object of `class` that has `attribute`.
    fn one(
        &self,
        session: &Session,
        class: ObjectClass,
        attribute: Attribute,
    ) -> Result<ObjectHandle, SignError> {
        let template = [
            Attribute::Class(class),
            Attribute::KeyType(KeyType::EC),
            attribute,
        ];
        match *session.find_objects(&template).map_err(self.fault())? {
            [object] => Ok(object),
            [] => Err(SignError::Missing {
                token: self.token.clone(),
                fault: format!("expected an EC key there ({class}), found none"),
            }),
            _ => Err(self.says(format!(
                "expected one EC key there ({class}), found several"
            ))),
        }
    }

    fn public_key(&self, session: &Session, object: ObjectHandle) -> Result<PublicKey, SignError> {
        let attributes = session
            .get_attributes(object, &[AttributeType::EcPoint])
            .map_err(self.fault())?;
        let Some(Attribute::EcPoint(encoded)) = attributes.first() else {
            return Err(self.says("expected the public key to have a point"));
        };
        // Some tokens leave the OCTET STRING out.
        let point = encoded.strip_prefix(&POINT_HEADER[..]).unwrap_or(encoded);
        PublicKey::from_point(point).map_err(|error| self.says(error.to_string()))
    }

    fn says(&self, fault: impl Into<String>) -> SignError {
        SignError::Token {
            token: self.token.clone(),
            fault: fault.into(),
        }
    }

    fn fault(&self) -> impl Fn(Error) -> SignError {
        |error| token_fault(&self.token, &error)
    }
}

/// The module's word alone: cryptoki's texts quote pages of the standard.
fn token_fault(token: &str, error: &Error) -> SignError {
    let token = token.to_owned();
    match error {
        Error::Pkcs11(
            code @ (RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::PinLocked
            | RvError::UserPinNotInitialized),
            _,
        ) => SignError::Pin {
            token,
            fault: format!("{code:?}"),
        },
        Error::Pkcs11(code, function) => SignError::Token {
            token,
            fault: format!("{function:?} answers {code:?}"),
        },
        error => SignError::Token {
            token,
            fault: error.to_string(),
        },
    }
}

/// A key as [`sessions`] look for it.
struct KeyInToken {
    device: Device,
    id: Vec<u8>,
    public: PublicKey,
}

impl KeyInToken {
    /// A session that has shown to sign with this very key: another may have taken its place.
    fn session(&self) -> Result<Signing<'_>, SignError> {
        let device = &self.device;
        let library = library();
        let session = device.log_in(Purpose::Sign)?;
        let id = Attribute::Id(self.id.clone());
        let signing = Signing {
            device,
            restarts: *library,
            key: device.one(&session, ObjectClass::PRIVATE_KEY, id)?,
            session: Some(session),
        };
        drop(library);
        prove(&self.public, |message| signing.sign(message))?;
        Ok(signing)
    }
}

/// A session and the key in it.
struct Signing<'a> {
    device: &'a Device,
    /// `Some` until drop.
    session: Option<Session>,
    key: ObjectHandle,
    /// What [`LIBRARY`] said when it was opened.
    restarts: u64,
}

impl Signing<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let library = library();
        // Handles are numbers, and begin again: this one may be somebody else's now.
        if *library != self.restarts {
            return Err(self.device.says("its library was started anew"));
        }
        // The digest is made here: not every token knows ECDSA with SHA-256 as one mechanism.
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message);
        let Some(session) = &self.session else {
            return Err(self.device.says("its session is closed"));
        };
        let raw = session
            .sign(&Mechanism::Ecdsa, self.key, digest.as_ref())
            .map_err(self.device.fault())?;
        asn1(&raw).ok_or_else(|| self.device.says("expected a signature of 64 bytes"))
    }
}

impl Drop for Signing<'_> {
    fn drop(&mut self) {
        let library = library();
        if *library != self.restarts {
            // Its number may be another session's now, which closing it would close.
            std::mem::forget(self.session.take());
        }
    }
}

/// `r || s`, as tokens give it, in the form that certificates have (RFC 3279 section 2.2.3).
fn asn1(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() != 64 {
        return None;
    }
    let mut body = Vec::with_capacity(70);
    for number in raw.chunks(32) {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let digits = &number[zeros.min(31)..];
        // A leading bit that is set would make the number negative.
        let sign = usize::from(digits[0] >= 0x80);
        body.extend([0x02, u8::try_from(digits.len() + sign).ok()?]);
        body.extend(std::iter::repeat_n(0, sign));
        body.extend(digits);
    }
    let mut signature = vec![0x30, u8::try_from(body.len()).ok()?];
    signature.append(&mut body);
    Some(signature)
}

#[cfg(test)]
mod tests;
