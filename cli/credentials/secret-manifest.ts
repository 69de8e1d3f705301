/**
 * Credentials as the manifest of one Kubernetes Secret instead of a folder: to be piped into `kubectl apply -f -`.
 *
 * Its keys are the settings (`DYNAMOS_STORE` and so on) and the files that they name: `store-password`, `bus-password`,
 * `chain-bus-password`, and with TLS `store-ca.pem` and `bus-ca.pem`, which chains use too. Pods mount the files at
 * {@link CREDENTIALS_MOUNT}, those of chains in `chain/` below it.
 */
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CredentialsFolder } from "./credentials-folder.ts";

/** Where pods of ours find the files of their Secret. */
export const CREDENTIALS_MOUNT = "/etc/dynamos/credentials";

/** A Secret (Kubernetes API v1), as far as we fill it. */
export interface SecretManifest {
  readonly apiVersion: "v1";
  readonly kind: "Secret";
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly type: "Opaque";
  readonly stringData: Readonly<Record<string, string>>;
}

/**
 * The Secret with what `write` puts into a folder. The folder lies in the system's folder for temporary files, for its owner only,
 * and is gone afterwards: the trial of new credentials needs files.
 *
 * @param steward the party whose it is; undefined: the core's.
 */
export async function secretOf(
  name: string,
  steward: string | undefined,
  write: (folder: CredentialsFolder) => Promise<void>,
): Promise<SecretManifest> {
  const path = await mkdtemp(join(tmpdir(), "dynamos-credentials-"));
  try {
    await write(await CredentialsFolder.make(path, CREDENTIALS_MOUNT));
    const labels = {
      "app.kubernetes.io/part-of": "dynamos",
      ...(steward === undefined ? {} : { "dynamos.steward": steward }),
    };
    return {
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name, labels },
      type: "Opaque",
      stringData: await keysOf(path),
    };
  } finally {
    await rm(path, { recursive: true, force: true });
  }
}

async function keysOf(folder: string): Promise<Record<string, string>> {
  const keys: Record<string, string> = {};
  for (const file of (await readdir(folder, { recursive: true })).sort()) {
    if (file === "chain") continue;
    const text = await readFile(join(folder, file), "utf8");
    if (file === "settings.env") Object.assign(keys, settingsIn(text));
    else if (file.endsWith("-password")) keys[file.replace("/", "-")] = text.trimEnd();
    // The chains' authorities are the agent's.
    else if (!file.startsWith("chain")) keys[file] = text;
  }
  return keys;
}

function settingsIn(text: string): Record<string, string> {
  const lines = text.split("\n").filter((line) => line !== "");
  return Object.fromEntries(
    lines.map((line) => {
      const [name = "", ...value] = line.split("=");
      return [name, value.join("=")];
    }),
  );
}
