/** Failures of TLS handshakes as errors that name what helps: OpenSSL's words alone help nobody who did not set it up. */
import { AppError } from "../errors.ts";

/** Codes of OpenSSL's verification (`X509_V_ERR_…`), as Node names them, that mean: signed by nobody whom we trust. */
const UNTRUSTED = new Set([
  "CERT_SIGNATURE_FAILURE",
  "CERT_UNTRUSTED",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
]);

/**
 * The error of a call to `https://…` whose handshake failed: `unavailable`, as any service that cannot be reached, since whoever
 * mends it may be somebody else. Undefined for what is no matter of TLS.
 */
export function tlsFault(url: URL, thrown: unknown): AppError | undefined {
  if (!(thrown instanceof Error) || url.protocol !== "https:") return undefined;
  const code = String((thrown as NodeJS.ErrnoException).code);
  const remedy = remedyOf(code, url, thrown);
  if (remedy === undefined) return undefined;
  return new AppError("unavailable", `No TLS connection to ${url.origin}: ${remedy} [${code}]`, { cause: thrown });
}

function remedyOf(code: string, url: URL, { message }: Error): string | undefined {
  if (UNTRUSTED.has(code)) {
    return "its certificate is signed by an authority that is not trusted here. Name that authority's certificate in DYNAMOS_TLS_CA_FILE (of the doctor: --ca).";
  }
  switch (code) {
    case "CERT_HAS_EXPIRED":
      return "its certificate has expired. Renew the file that its DYNAMOS_TLS_CERT_FILE names; it is read again by itself.";
    case "CERT_NOT_YET_VALID":
      return "its certificate is not valid yet. See that the clocks of both machines are right.";
    case "ERR_TLS_CERT_ALTNAME_INVALID":
      return `its certificate is for other names (${message}). Have it made out for ${url.hostname} as well, or call it by a name that it has.`;
    default:
      if (/wrong version number|packet length too long/.test(message)) {
        return "it does not speak TLS. Write http:// in its URL, or give it DYNAMOS_TLS_CERT_FILE and DYNAMOS_TLS_KEY_FILE.";
      }
      return /^(ERR_(TLS|SSL|OSSL)_|CERT_|EPROTO$|UNABLE_TO_)/.test(code) ? `${opensslReason(message)}.` : undefined;
  }
}

/** OpenSSL's reason out of its line: `…:error:0A00010B:SSL routines:ssl3_get_record:wrong version number:…`. */
function opensslReason(message: string): string {
  return /:SSL routines:[^:]*:([^:\n]+)/.exec(message)?.[1] ?? message.trim();
}
