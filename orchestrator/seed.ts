/**
 * Fills an empty knowledge store from a folder of documents: `archetypes/`, `microservices/`, `requestTypes/`, `datasets/`,
 * `agreements/`, `forcedServices/`, one JSON file each. All of it is read and checked before anything is stored; a fault is
 * named with its file and place.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../lib/clock.ts";
import { parseJsonFile } from "../lib/config/json-file.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import {
  DOCUMENT_KINDS,
  nameOf,
  requireDocument,
  type DocumentKind,
  type DocumentOf,
  type KnowledgeBase,
} from "../lib/knowledge/knowledge-base.ts";
import { seedKeys } from "../lib/knowledge/keys.ts";
import { readDocuments } from "./knowledge-admin.ts";
import { checkDocuments, RuleBreach, type Documents } from "./knowledge-rules.ts";
import { withStoreLock, type HeldLock } from "./store-lock.ts";

interface FileDocument {
  readonly kind: DocumentKind;
  readonly name: string;
  readonly document: DocumentOf<DocumentKind>;
  readonly file: string;
}

/**
 * Seeds, and says how many documents were stored: none when the store has documents already, unless they are of a seeding
 * that was interrupted. Of replicas that start at once one seeds, under the lock that all writers of documents take.
 */
export async function seedIfEmpty(knowledge: KnowledgeBase, folder: string, clock: Clock): Promise<number> {
  const files = await readChecked(folder);
  return withStoreLock("documents", { store: knowledge.store, clock }, (lock) => seed(knowledge, files, lock));
}

async function seed(knowledge: KnowledgeBase, files: readonly FileDocument[], { guard }: HeldLock): Promise<number> {
  const marker = seedKeys.key({ name: "documents" });
  const isUnderWay = (await knowledge.store.get(marker))?.value === "under way";
  if (!isUnderWay && (await hasDocuments(knowledge))) return 0;
  await knowledge.store.put(marker, "under way", { guard });
  let stored = 0;
  for (const { kind, document, name } of files) {
    // The interrupted seeding had come so far.
    if (isUnderWay && (await knowledge.get(kind, name)) !== undefined) continue;
    await knowledge.put(kind, document, { guard });
    stored++;
  }
  await knowledge.store.put(marker, "done", { guard });
  return stored;
}

/** How many documents a folder has; fails as the seeding would. */
export async function checkSeedFolder(folder: string): Promise<number> {
  return (await readChecked(folder)).length;
}

async function readChecked(folder: string): Promise<readonly FileDocument[]> {
  const files = await readFolder(folder);
  checkTogether(files);
  return files;
}

async function hasDocuments(knowledge: KnowledgeBase): Promise<boolean> {
  const documents = await readDocuments(knowledge);
  return DOCUMENT_KINDS.some((kind) => documents[kind].length > 0);
}

async function readFolder(folder: string): Promise<readonly FileDocument[]> {
  const documents: FileDocument[] = [];
  for (const kind of DOCUMENT_KINDS) {
    for (const file of await jsonFiles(join(folder, kind))) {
      const document = parseDocument(kind, await readFile(file, "utf8"), file);
      const name = nameOf(kind, document);
      const twin = documents.find((other) => other.kind === kind && other.name === name);
      if (twin !== undefined) throw fault(file, "/name", `it names "${name}", as ${twin.file} does`);
      documents.push({ kind, name, document, file });
    }
  }
  if (documents.length === 0) {
    throw fault(folder, "", `it has no documents; expected are the folders ${DOCUMENT_KINDS.join(", ")}`);
  }
  return documents;
}

async function jsonFiles(folder: string): Promise<string[]> {
  try {
    const names = await readdir(folder);
    return names
      .filter((name) => name.endsWith(".json"))
      .sort()
      .map((name) => join(folder, name));
  } catch (thrown) {
    if (thrown instanceof Error && (thrown as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw thrown;
  }
}

function parseDocument(kind: DocumentKind, text: string, file: string): DocumentOf<DocumentKind> {
  try {
    const value = parseJsonFile(text, file);
    requireDocument(kind, value);
    return value;
  } catch (thrown) {
    throw inFile(toAppError(thrown), file);
  }
}

function checkTogether(files: readonly FileDocument[]): void {
  const documents = Object.fromEntries(
    DOCUMENT_KINDS.map((kind) => [kind, files.filter((file) => file.kind === kind).map(({ document }) => document)]),
  ) as unknown as Documents;
  try {
    checkDocuments(documents);
  } catch (thrown) {
    const error = toAppError(thrown);
    const name = thrown instanceof RuleBreach ? thrown.document : undefined;
    const breached = files.find(
      (file) => thrown instanceof RuleBreach && file.kind === thrown.kind && file.name === name,
    );
    throw inFile(error, (breached ?? namedFile(files, error.message))?.file);
  }
}

/** Faults of chains name the document that they begin with. */
function namedFile(files: readonly FileDocument[], message: string): FileDocument | undefined {
  const [, what, name] = /(Microservice|[Rr]equest type) "([^"]+)"/.exec(message) ?? [];
  const kind: DocumentKind = what === "Microservice" ? "microservices" : "requestTypes";
  return files.find((file) => file.kind === kind && file.name === name);
}

function inFile(error: AppError, file: string | undefined): AppError {
  if (file === undefined) return error;
  const { line, column, pointer } = error.place ?? {};
  const where = [file, line, column].filter((part) => part !== undefined).join(":") + (pointer ? ` at ${pointer}` : "");
  return new AppError(error.code, `${where}: ${error.message}`, {
    cause: error,
    details: error.details,
    place: { ...error.place, file },
  });
}

function fault(file: string, pointer: string, what: string): AppError {
  return new AppError("configuration_invalid", `${file}: ${what}.`, { place: { file, pointer } });
}
