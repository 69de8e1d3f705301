/** Settings for TLS of programs that serve and call each other over HTTP. Files, so that a mounted Secret can hold them. */
import { Type, type Static, type TObject } from "@sinclair/typebox";
import { AppError } from "../errors.ts";

/** Of whoever calls others. */
export const TrustSettings = {
  DYNAMOS_TLS_CA_FILE: Type.Optional(
    Type.String({ description: "PEM file of authorities that are trusted besides Node's when others are called" }),
  ),
};

/** Of whoever serves and calls others. */
export const TlsSettings = {
  DYNAMOS_TLS_CERT_FILE: Type.Optional(
    Type.String({ description: "PEM file of the server's certificate and its chain; absent: plain HTTP" }),
  ),
  DYNAMOS_TLS_KEY_FILE: Type.Optional(Type.String({ description: "PEM file of the key of that certificate" })),
  ...TrustSettings,
};

/** Values of these settings. */
export type TlsSettings = Static<TObject<typeof TlsSettings>>;

/** Where a server's certificate and its key lie. */
export interface CertificatePlace {
  readonly certFile: string;
  readonly keyFile: string;
}

/** The files of the server's certificate; undefined: plain HTTP. `configuration_invalid` where only one of them is named. */
export function certificatePlace({
  DYNAMOS_TLS_CERT_FILE: certFile,
  DYNAMOS_TLS_KEY_FILE: keyFile,
}: TlsSettings): CertificatePlace | undefined {
  if (certFile !== undefined && keyFile !== undefined) return { certFile, keyFile };
  if (certFile === undefined && keyFile === undefined) return undefined;
  const missing = certFile === undefined ? "DYNAMOS_TLS_CERT_FILE" : "DYNAMOS_TLS_KEY_FILE";
  throw new AppError(
    "configuration_invalid",
    `${missing} is missing: DYNAMOS_TLS_CERT_FILE and DYNAMOS_TLS_KEY_FILE come together. Name both, or none for plain HTTP.`,
  );
}
