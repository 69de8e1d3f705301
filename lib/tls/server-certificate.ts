/** The certificate that a server shows, from files that may be renewed while it runs. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { createSecureContext } from "node:tls";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { dynamosMeter } from "../telemetry/metrics.ts";
import { FollowedFiles } from "./followed-files.ts";
import { LOWEST_TLS, type TlsParts } from "./parts.ts";
import { certificatePlace, type CertificatePlace, type TlsSettings } from "./settings.ts";
import { countRenewals } from "./tls-metrics.ts";

/** A certificate with its key, as Node's servers take it. */
export interface CertificatePair {
  /** PEM: the server's certificate, then those between it and its authority. */
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly validUntil: Date;
}

/** See the file comment. A new pair that is no good is told, and the old one stays. */
export class ServerCertificate {
  readonly place: CertificatePlace;
  readonly #files: FollowedFiles<CertificatePair>;
  readonly #clock: Clock;
  readonly #listeners: Set<(pair: CertificatePair) => void>;

  private constructor(
    files: FollowedFiles<CertificatePair>,
    place: CertificatePlace,
    clock: Clock,
    listeners: Set<(pair: CertificatePair) => void>,
  ) {
    this.#files = files;
    this.place = place;
    this.#clock = clock;
    this.#listeners = listeners;
  }

  /** The certificate that settings name; undefined: plain HTTP. `configuration_invalid` where its files are no good. */
  static async open(settings: TlsSettings, parts: TlsParts): Promise<ServerCertificate | undefined> {
    const place = certificatePlace(settings);
    if (place === undefined) return undefined;
    const { clock, logger, lookEveryMs } = parts;
    const listeners = new Set<(pair: CertificatePair) => void>();
    const renewals = countRenewals("certificate");
    const files = await FollowedFiles.open({
      paths: [place.certFile, place.keyFile],
      make: ([cert, key]) => toPair(cert!, key!, place),
      onTaken: (pair) => {
        for (const listener of listeners) listener(pair);
        renewals("taken");
        logger.info({ validUntil: pair.validUntil.toISOString() }, "the renewed certificate is served from now on");
      },
      onRefused: (error) => {
        renewals("refused");
        logger.error({ error }, "the renewed certificate cannot be used: the one before it is served on");
      },
      clock,
      lookEveryMs,
    });
    const certificate = new ServerCertificate(files, place, clock, listeners);
    const end = dynamosMeter().createObservableGauge("dynamos.tls.certificate.end", {
      description: "When the certificate that is served ends, in seconds since 1970",
      unit: "s",
    });
    end.addCallback((result) => result.observe(certificate.pair.validUntil.getTime() / 1000));
    return certificate;
  }

  /** The latest good one. */
  get pair(): CertificatePair {
    return this.#files.value;
  }

  /** Calls back with each renewed pair. */
  onRenewed(listener: (pair: CertificatePair) => void): void {
    this.#listeners.add(listener);
  }

  /** Fails where the files as they are now could not be taken, or where the certificate is over. */
  check(): void {
    if (this.#files.fault !== undefined) throw this.#files.fault;
    if (this.#clock.now() < this.pair.validUntil.getTime()) return;
    const end = this.pair.validUntil.toISOString();
    throw new AppError("configuration_invalid", `The certificate in ${this.place.certFile} was valid until ${end}.`);
  }

  /** Stops looking for renewals. */
  close(): Promise<void> {
    return this.#files.close();
  }
}

function toPair(cert: Buffer, key: Buffer, { certFile, keyFile }: CertificatePlace): CertificatePair {
  const certificate = read(certFile, "no certificate in PEM that can be read", () => new X509Certificate(cert));
  const privateKey = read(keyFile, "no private key in PEM that can be read without a passphrase", () =>
    createPrivateKey(key),
  );
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new AppError("configuration_invalid", `The key in ${keyFile} does not fit the certificate in ${certFile}.`, {
      place: { file: keyFile },
    });
  }
  // What stands behind the first certificate is looked at by this alone.
  read(certFile, "a chain of certificates that cannot be used", () =>
    createSecureContext({ cert, key, minVersion: LOWEST_TLS }),
  );
  return { cert, key, validUntil: new Date(certificate.validTo) };
}

function read<Value>(file: string, fault: string, make: () => Value): Value {
  try {
    return make();
  } catch (cause) {
    throw new AppError("configuration_invalid", `The file ${file} has ${fault}.`, { cause, place: { file } });
  }
}
