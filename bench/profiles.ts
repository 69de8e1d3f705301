/**
 * Profiles of a system's processes, without any of them knowing: they are started by a shell script in Node's place, which adds
 * `--cpu-prof` and lets their own children be started by it, too (`profile-preload.ts`). A process writes its profile when it ends.
 */
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** Where children find the script; `profile-preload.ts` reads it. */
export const PROFILED_NODE_VARIABLE = "DYNAMOS_BENCH_NODE";

/** Does work during which all processes that this one starts write their profiles into a folder. */
export async function profiled<Result>(folder: string | undefined, work: () => Promise<Result>): Promise<Result> {
  if (folder === undefined) return work();
  await mkdir(folder, { recursive: true });
  const node = process.execPath;
  process.execPath = await writeScript(node, folder);
  try {
    return await work();
  } finally {
    process.execPath = node;
  }
}

async function writeScript(node: string, folder: string): Promise<string> {
  const script = join(folder, "node");
  const preload = fileURLToPath(new URL("./profile-preload.js", import.meta.url));
  const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [
    "#!/bin/sh",
    `export ${PROFILED_NODE_VARIABLE}=${quoted(script)}`,
    // Bundles say nothing of the sources that they were made of.
    "for argument do shift; case $argument in */dist/bundle/*) argument=${argument%%/dist/bundle/*}/dist/${argument#*/dist/bundle/};; esac",
    'set -- "$@" "$argument"; done',
    `exec ${quoted(node)} --cpu-prof --cpu-prof-dir=${quoted(folder)} --import=${quoted(preload)} "$@"`,
  ];
  await writeFile(script, `${lines.join("\n")}\n`);
  await chmod(script, 0o755);
  return script;
}
