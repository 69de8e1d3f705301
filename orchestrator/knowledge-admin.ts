/**
 * Writing documents: each write is checked against its schema and, together with all others, against the rules
 * (`knowledge-rules.ts`) before it is stored. Writes wait for each other, those of other replicas too (`store-lock.ts`), so that
 * two that are only wrong together are not both stored.
 */
import type { Clock } from "../lib/clock.ts";
import { AppError } from "../lib/errors.ts";
import {
  DOCUMENT_KINDS,
  nameOf,
  requireDocument,
  type DocumentKind,
  type DocumentOf,
  type KnowledgeBase,
} from "../lib/knowledge/knowledge-base.ts";
import type { DeleteOptions } from "../lib/knowledge/knowledge-store.ts";
import { checkDocuments, type Documents } from "./knowledge-rules.ts";
import { withStoreLock, type HeldLock } from "./store-lock.ts";

/** See the file comment. */
export class KnowledgeAdmin {
  readonly #knowledge: KnowledgeBase;
  readonly #clock: Clock;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(knowledge: KnowledgeBase, clock: Clock) {
    this.#knowledge = knowledge;
    this.#clock = clock;
  }

  /**
   * Stores a document of this kind; the new revision, and whether it is new. Fails with `configuration_invalid` or
   * `chain_invalid` and the JSON pointer of the fault, with `precondition_failed`, or with `unavailable` when others write for
   * too long; then nothing is stored.
   */
  put(kind: DocumentKind, value: unknown, ifRevision?: number): Promise<{ revision: number; isNew: boolean }> {
    return this.#inTurn(async (lock) => {
      requireDocument(kind, value);
      const name = nameOf(kind, value);
      const documents = await readDocuments(this.#knowledge);
      const others = without(documents[kind], kind, name);
      checkWith({ ...documents, [kind]: [...others, value] }, kind, name, "Nothing was stored");
      const revision = await this.#knowledge.put(kind, value, demandsOf(lock, ifRevision));
      return { revision, isNew: others.length === documents[kind].length };
    });
  }

  /** Deletes a document that no other needs; whether there was one. */
  delete(kind: DocumentKind, name: string, ifRevision?: number): Promise<boolean> {
    return this.#inTurn(async (lock) => {
      const documents = await readDocuments(this.#knowledge);
      const others = without(documents[kind], kind, name);
      if (others.length === documents[kind].length) return false;
      checkWith({ ...documents, [kind]: others }, kind, name, `"${name}" is still needed, and was not deleted`);
      return this.#knowledge.delete(kind, name, demandsOf(lock, ifRevision));
    });
  }

  #inTurn<Result>(work: (lock: HeldLock) => Promise<Result>): Promise<Result> {
    const { store } = this.#knowledge;
    const result = this.#turn.then(() => withStoreLock("documents", { store, clock: this.#clock }, work));
    // The next one waits for this one's end, whichever it is; its outcome goes to its own caller.
    this.#turn = result.catch(() => undefined);
    return result;
  }
}

/** What a write under the lock demands. */
function demandsOf({ guard }: HeldLock, ifRevision: number | undefined): DeleteOptions {
  return ifRevision === undefined ? { guard } : { guard, ifRevision };
}

/** All documents, as stored. */
export async function readDocuments(knowledge: KnowledgeBase): Promise<Documents> {
  const lists = await Promise.all(
    DOCUMENT_KINDS.map(async (kind) => {
      const { documents } = await knowledge.list(kind);
      return [kind, documents.map(({ document }) => document)] as const;
    }),
  );
  return Object.fromEntries(lists) as unknown as Documents;
}

/** A breach in another document says which, since the pointer leads into that one. */
function checkWith(documents: Documents, kind: DocumentKind, name: string, consequence: string): void {
  try {
    checkDocuments(documents);
  } catch (thrown) {
    if (!(thrown instanceof AppError)) throw thrown;
    throw new AppError(thrown.code, `${thrown.message} ${consequence}.`, {
      cause: thrown,
      details: { kind, document: name, ...thrown.details },
      ...(thrown.place === undefined ? {} : { place: thrown.place }),
    });
  }
}

function without<Kind extends DocumentKind>(
  documents: readonly DocumentOf<Kind>[],
  kind: Kind,
  name: string,
): readonly DocumentOf<Kind>[] {
  return documents.filter((document) => nameOf(kind, document) !== name);
}
