/**
 * Builds that are wrong on purpose, to see that the harness notices: a copy of the sources in which one small place is changed,
 * built, to be run from there.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../../lib/package-root.ts";

/** One change: a text of one file, which must be there exactly once, and what takes its place. */
export interface Mutant {
  readonly what: string;
  readonly file: string;
  readonly text: string;
  readonly instead: string;
}

/** The mutants, by the names that `--mutant` knows. */
export const MUTANTS = {
  "ack-on-receipt": {
    what: "a message is acknowledged when it arrives, before its work is done",
    file: "lib/bus/rabbitmq-consumer.ts",
    text: "    const settlement = await this.#decide(delivery);\n",
    instead:
      '    this.#answer(line, message, "accept");\n' +
      "    const settlement = await this.#decide(delivery);\n" +
      "    if (message.content.length >= 0) return;\n",
  },
  "forgotten-attempt": {
    what: "a provider's next life forgets the attempts of the last one, and counts from 1",
    file: "agent/provider-requests.ts",
    text: "return ((asked.attempt - 1) * MAX_LIVES + life) * MAX_ATTEMPTS + 1;",
    instead: "return ((asked.attempt - 1) * MAX_LIVES + 0 * life) * MAX_ATTEMPTS + 1;",
  },
} as const satisfies Record<string, Mutant>;
export type MutantName = keyof typeof MUTANTS;

/** Whether a word names a mutant. */
export function isMutantName(word: string): word is MutantName {
  return Object.hasOwn(MUTANTS, word);
}

/** The text with the change in it; fails unless its place is there exactly once. */
export function mutate(source: string, { file, text, instead }: Mutant): string {
  const parts = source.split(text);
  if (parts.length === 2) return parts.join(instead);
  throw new Error(
    `The place to change in ${file} is there ${String(parts.length - 1)} times instead of once: the code has changed, and so ` +
      "must the mutant in test/chaos/mutants.ts.",
  );
}

const COPIED = [
  ["package.json", "tsconfig.json", "agent", "bench", "cli", "configuration", "lib", "microservices", "orchestrator"],
  ["proto", "sdk", "sidecar", "test", "dist"],
].flat();

/** Builds a mutant in a folder; resolves with the harness's main program there. */
export function buildMutant(name: MutantName, folder: string): string {
  const mutant = MUTANTS[name];
  for (const entry of COPIED) {
    if (existsSync(join(packageRoot, entry)))
      cpSync(join(packageRoot, entry), join(folder, entry), { recursive: true });
  }
  symlinkSync(join(packageRoot, "node_modules"), join(folder, "node_modules"));
  const file = join(folder, mutant.file);
  writeFileSync(file, mutate(readFileSync(file, "utf8"), mutant));
  const built = spawnSync(process.execPath, [join(folder, "cli", "build.mjs")], { encoding: "utf8", cwd: folder });
  if (built.status !== 0) throw new Error(`The mutant ${name} could not be built:\n${built.stderr}`);
  return join(folder, "dist", "test", "chaos", "main.js");
}
