/** Which authorities' certificates count when this program calls others. */
import { X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createSecureContext, rootCertificates, type SecureContext } from "node:tls";
import { AppError } from "../errors.ts";
import { FollowedFiles } from "./followed-files.ts";
import { LOWEST_TLS, type TlsParts } from "./parts.ts";
import { countRenewals } from "./tls-metrics.ts";

/** What a caller trusts at the moment. */
export interface Trust {
  /** For `tls.connect` and `https.request`; undefined: what Node trusts by itself. */
  secureContext(): SecureContext | undefined;
}

/** A trust that follows its file. */
export interface FollowedTrust extends Trust {
  /** Stops looking for changes. */
  close(): Promise<void>;
}

/** What Node trusts by itself: its own list, and NODE_EXTRA_CA_CERTS. */
export const NODE_TRUST: Trust = { secureContext: () => undefined };

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

/**
 * Trust in the authorities in a PEM file besides Node's own; without a file in these alone. The file is followed: one that is
 * no good leaves the trust as it was, and is told.
 *
 * @param extraCaFile what NODE_EXTRA_CA_CERTS names, which counts on.
 * @throws AppError `configuration_invalid` where the file has no certificates, or broken ones.
 */
export async function openTrust(
  caFile: string | undefined,
  parts: TlsParts,
  extraCaFile?: string,
): Promise<FollowedTrust> {
  if (caFile === undefined) return { ...NODE_TRUST, close: async () => undefined };
  const { clock, logger, lookEveryMs } = parts;
  const renewals = countRenewals("authorities");
  const extra = extraCaFile === undefined ? [] : authoritiesIn(await readExtra(extraCaFile), extraCaFile);
  const files = await FollowedFiles.open({
    paths: [caFile],
    make: ([pem]) => contextOf([...authoritiesIn(pem!, caFile), ...extra]),
    onTaken: () => {
      renewals("taken");
      logger.info("the changed authorities are trusted from now on");
    },
    onRefused: (error) => {
      renewals("refused");
      logger.error({ error }, "the changed authorities cannot be used: those before them are trusted on");
    },
    clock,
    lookEveryMs,
  });
  return { secureContext: () => files.value, close: () => files.close() };
}

/** Making one takes some milliseconds, for Node's list is long: so it is made once per change, and not per call. */
function contextOf(authorities: readonly string[]): SecureContext {
  return createSecureContext({ ca: [...rootCertificates, ...authorities], minVersion: LOWEST_TLS });
}

function authoritiesIn(pem: Buffer, file: string): readonly string[] {
  const text = pem.toString("latin1");
  const certificates = text.match(CERTIFICATE) ?? [];
  const begun = text.match(/-----BEGIN/g)?.length ?? 0;
  if (certificates.length === 0 || begun !== certificates.length) {
    const fault =
      certificates.length === 0 ? "has no certificate in PEM" : "has something that is no whole certificate";
    throw invalid(file, fault);
  }
  for (const certificate of certificates) {
    try {
      new X509Certificate(certificate);
    } catch (cause) {
      throw invalid(file, "has a certificate that cannot be read", cause);
    }
  }
  return certificates;
}

async function readExtra(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (cause) {
    throw invalid(file, "is named by NODE_EXTRA_CA_CERTS and cannot be read", cause);
  }
}

function invalid(file: string, fault: string, cause?: unknown): AppError {
  return new AppError("configuration_invalid", `The file ${file} ${fault}: it is to hold authorities' certificates.`, {
    place: { file },
    ...(cause === undefined ? {} : { cause }),
  });
}
