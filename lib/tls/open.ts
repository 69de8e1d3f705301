/** A program's TLS: what its server shows, and whom it trusts; its releases go on the program's stack. */
import { systemClock } from "../clock.ts";
import { extraAuthoritiesFile } from "../config/env.ts";
import type { ProgramContext } from "../lifecycle.ts";
import { ServerCertificate } from "./server-certificate.ts";
import type { TlsSettings } from "./settings.ts";
import { openTrust, type Trust } from "./trust.ts";

/** See the file comment. */
export interface ProgramTls {
  /** Undefined: plain HTTP is served. */
  readonly certificate: ServerCertificate | undefined;
  readonly trust: Trust;
}

/** Reads and follows the files of these settings. `configuration_invalid` where one is no good, or half of a pair is missing. */
export async function openTls(
  settings: TlsSettings,
  { releases, logger }: Pick<ProgramContext, "releases" | "logger">,
): Promise<ProgramTls> {
  const parts = { clock: systemClock, logger };
  const certificate = await ServerCertificate.open(settings, parts);
  if (certificate !== undefined) releases.push("certificate", () => certificate.close());
  const trust = await openTrust(settings.DYNAMOS_TLS_CA_FILE, parts, extraAuthoritiesFile());
  releases.push("trusted authorities", () => trust.close());
  return { certificate, trust };
}
