/** Gathers what `machine.ts` judges. */
import { existsSync } from "node:fs";
import { readFile, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { toAppError } from "../../lib/errors.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { checkSeedFolder } from "../../orchestrator/seed.ts";
import { readConfigurationFolder } from "../exchange/configuration-folder.ts";
import type { Checked, MachineFacts } from "./machine.ts";

/** Where to look. */
export interface MachinePlaces {
  readonly settings: Checked;
  /** Absent: not looked at. */
  readonly configuration: string | undefined;
  /** Looked at where it is there. */
  readonly stateFolder: string;
}

/** Looks at this machine. */
export async function probeMachine({ settings, configuration, stateFolder }: MachinePlaces): Promise<MachineFacts> {
  const { engines } = JSON.parse(await readFile(join(packageRoot, "package.json"), "utf8")) as {
    readonly engines: { readonly node: string };
  };
  const adminKey = join(stateFolder, "orchestrator", "admin-key");
  return {
    nodeVersion: process.version,
    nodeRange: engines.node,
    settings,
    ...(configuration === undefined ? {} : { configuration: await checkConfiguration(configuration) }),
    ...(existsSync(stateFolder) ? { disk: await diskOf(stateFolder) } : {}),
    ...(existsSync(adminKey) ? { adminKey: { path: adminKey, mode: (await stat(adminKey)).mode } } : {}),
  };
}

async function checkConfiguration(folder: string): Promise<Checked> {
  try {
    const { parties } = await readConfigurationFolder(folder);
    const documents = await checkSeedFolder(folder);
    return {
      ok: true,
      what: `${folder} has ${String(documents)} documents that go together, and ${String(parties.length)} parties.`,
    };
  } catch (thrown) {
    return toChecked(thrown);
  }
}

async function diskOf(path: string): Promise<NonNullable<MachineFacts["disk"]>> {
  const { bavail, bsize } = await statfs(path);
  return { path, freeBytes: bavail * bsize };
}

/** What is wrong, as the doctor shows it. */
export function toChecked(thrown: unknown): Checked {
  const { message, place } = toAppError(thrown);
  return { ok: false, message, ...(place === undefined ? {} : { place }) };
}
