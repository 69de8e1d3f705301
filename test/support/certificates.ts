/** Certificates for servers and clients of tests, made by openssl in a folder of the test. */
import { execFile, spawnSync } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { temporaryFolder } from "./temporary-folder.ts";

const run = promisify(execFile);

/** Why tests that need certificates cannot run here; false when they can. For a test's `skip`. */
export function noCertificates(): string | false {
  return spawnSync("openssl", ["version"]).status === 0 ? false : "openssl is not installed: apt-get install openssl";
}

/** A certificate with its key, as paths of PEM files. */
export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

/** A certificate authority that signs for one test. */
export class CertificateAuthority {
  /** Its own certificate: what clients are to trust. */
  readonly caFile: string;
  readonly #folder: string;
  #count = 0;

  private constructor(folder: string) {
    this.#folder = folder;
    this.caFile = join(folder, "ca.pem");
  }

  /** A new authority, which nobody trusts yet. */
  static async make(name = "DYNAMOS test authority"): Promise<CertificateAuthority> {
    const authority = new CertificateAuthority(await temporaryFolder());
    await openssl(authority.#folder, [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"],
      ...["-subj", `/CN=${name}`, "-keyout", "ca.key", "-out", "ca.pem"],
    ]);
    return authority;
  }

  /**
   * A certificate that serves servers and clients alike; `name` is its common name.
   *
   * @param options the names that it is for (default: localhost and 127.0.0.1), and how many days it is good for (default 2;
   * negative: it is over).
   */
  async certificate(
    name = "localhost",
    { names = "DNS:localhost,IP:127.0.0.1", days = 2 }: { readonly names?: string; readonly days?: number } = {},
  ): Promise<CertificateFiles> {
    const folder = join(this.#folder, String(++this.#count));
    await mkdir(folder);
    const extensions = `subjectAltName=${names}\nextendedKeyUsage=serverAuth,clientAuth\n`;
    await writeFile(join(folder, "extensions"), extensions);
    await openssl(folder, [
      ...["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", `/CN=${name}`],
      ...["-keyout", "key.pem", "-out", "request.pem"],
    ]);
    const serial = `0x${process.pid.toString(16)}${Math.floor(performance.now()).toString(16)}${String(this.#count)}`;
    await openssl(folder, [
      ...["x509", "-req", "-in", "request.pem", "-days", String(days), "-extfile", "extensions", "-out", "cert.pem"],
      ...["-CA", "../ca.pem", "-CAkey", "../ca.key", "-set_serial", serial],
    ]);
    return { certFile: join(folder, "cert.pem"), keyFile: join(folder, "key.pem") };
  }
}

async function openssl(cwd: string, parameters: readonly string[]): Promise<void> {
  await run("openssl", parameters, { cwd });
}
