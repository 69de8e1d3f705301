/**
 * Typed reading and writing of documents on top of the knowledge store: what is stored is checked against its schema, so
 * that nobody works with a malformed document. Keys are in `keys.ts`, the documents' forms in `lib/model`.
 */
import { type Static, type TSchema } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../errors.ts";
import { OnlineRecord } from "../messages.ts";
import { Agreement } from "../model/agreement.ts";
import { Archetype } from "../model/archetype.ts";
import { DataSet } from "../model/dataset.ts";
import { Microservice } from "../model/microservice.ts";
import { ForcedServices, RequestType } from "../model/request-type.ts";
import {
  agreementKeys,
  archetypeKeys,
  datasetKeys,
  forcedServicesKeys,
  microserviceKeys,
  onlineKeys,
  requestTypeKeys,
} from "./keys.ts";
import {
  type DeleteOptions,
  type KnowledgeStore,
  type Listing,
  type PutOptions,
  type StoredDocument,
} from "./knowledge-store.ts";

/** The schema of each kind of document; the kinds' names are also those of the folders under `configuration/`. */
export const DOCUMENT_SCHEMAS = {
  agreements: Agreement,
  archetypes: Archetype,
  datasets: DataSet,
  forcedServices: ForcedServices,
  microservices: Microservice,
  requestTypes: RequestType,
} as const satisfies Record<string, TSchema>;

/** A kind of document. */
export type DocumentKind = keyof typeof DOCUMENT_SCHEMAS;
/** A document of this kind. */
export type DocumentOf<Kind extends DocumentKind> = Static<(typeof DOCUMENT_SCHEMAS)[Kind]>;

/** All kinds, in the order in which documents may refer to earlier ones. */
export const DOCUMENT_KINDS = [
  "archetypes",
  "microservices",
  "requestTypes",
  "datasets",
  "agreements",
  "forcedServices",
] as const satisfies readonly DocumentKind[];

/** A checked document with the store revision of its last write. */
export interface Versioned<Document> {
  readonly document: Document;
  readonly revision: number;
}

/** A checked list, complete as of `revision`: what to watch from. */
export interface VersionedList<Document> {
  readonly documents: readonly Versioned<Document>[];
  readonly revision: number;
}

/** Verdicts that are kept; an exchange has fewer documents. */
const MAX_VERDICTS = 10_000;

/**
 * Documents by kind and name. Every call fails as the store's do; a stored document of a wrong form is `configuration_invalid`.
 *
 * Every call asks the store, so that a changed document counts at once (docs/decisions/0025: why nothing is served from memory). What
 * is remembered is only that a key had its kind's form at a revision: to check an agreement of a thousand users again takes
 * twenty milliseconds.
 */
export class KnowledgeBase {
  /** The store beneath, for watches, leases and records that are not documents. */
  readonly store: KnowledgeStore;
  /** Key to the revision at which it had its form. */
  readonly #verdicts = new Map<string, number>();

  constructor(store: KnowledgeStore) {
    this.store = store;
  }

  /** The document, or undefined. */
  async get<Kind extends DocumentKind>(kind: Kind, name: string): Promise<Versioned<DocumentOf<Kind>> | undefined> {
    const stored = await this.store.get(documentKey(kind, name));
    return stored && this.#versioned(kind, stored);
  }

  /** All documents of a kind, by name. */
  async list<Kind extends DocumentKind>(kind: Kind): Promise<VersionedList<DocumentOf<Kind>>> {
    const listing = await this.store.list(documentPrefix(kind));
    const documents = listing.documents.filter(({ key }) => documentName(kind, key) !== undefined);
    return { documents: documents.map((stored) => this.#versioned(kind, stored)), revision: listing.revision };
  }

  /** Writes a document under its own name, if it has its kind's form (else `configuration_invalid`); the new revision. */
  async put<Kind extends DocumentKind>(
    kind: Kind,
    document: DocumentOf<Kind>,
    options: PutOptions = {},
  ): Promise<number> {
    requireDocument(kind, document);
    return this.store.put(documentKey(kind, nameOf(kind, document)), document, options);
  }

  /** Deletes a document; whether there was one. */
  async delete(kind: DocumentKind, name: string, options: DeleteOptions = {}): Promise<boolean> {
    return this.store.delete(documentKey(kind, name), options);
  }

  /** The living instances of every party's agent, in order of key; with the revision to watch from. */
  async online(): Promise<VersionedList<OnlineRecord>> {
    return checkedList(OnlineRecord, await this.store.list(onlineKeys.prefix()));
  }

  /** The living instances of one party's agent; empty: it is offline. */
  async onlineInstances(party: string): Promise<readonly OnlineRecord[]> {
    const listing = await this.store.list(onlineKeys.prefix({ party }));
    return checkedList(OnlineRecord, listing).documents.map(({ document }) => document);
  }

  #versioned<Kind extends DocumentKind>(kind: Kind, stored: StoredDocument): Versioned<DocumentOf<Kind>> {
    const { key, value, revision } = stored;
    if (this.#verdicts.get(key) === revision) return { document: value as DocumentOf<Kind>, revision };
    const checked = versioned(DOCUMENT_SCHEMAS[kind], stored);
    if (this.#verdicts.size >= MAX_VERDICTS) this.#verdicts.clear();
    this.#verdicts.set(key, revision);
    return checked;
  }
}

/** The key of a document. */
export function documentKey(kind: DocumentKind, name: string): string {
  const steward = name;
  switch (kind) {
    case "agreements":
      return agreementKeys.key({ steward });
    case "archetypes":
      return archetypeKeys.key({ name });
    case "datasets":
      return datasetKeys.key({ name });
    case "forcedServices":
      return forcedServicesKeys.key({ steward });
    case "microservices":
      return microserviceKeys.key({ name });
    case "requestTypes":
      return requestTypeKeys.key({ name });
  }
}

/** The name in a document's key, or undefined when the key is of another kind. */
export function documentName(kind: DocumentKind, key: string): string | undefined {
  switch (kind) {
    case "agreements":
      return agreementKeys.parse(key)?.steward;
    case "archetypes":
      return archetypeKeys.parse(key)?.name;
    case "datasets":
      return datasetKeys.parse(key)?.name;
    case "forcedServices":
      return forcedServicesKeys.parse(key)?.steward;
    case "microservices":
      return microserviceKeys.parse(key)?.name;
    case "requestTypes":
      return requestTypeKeys.parse(key)?.name;
  }
}

/** What the keys of a kind's documents start with: what to watch. */
export function documentPrefix(kind: DocumentKind): string {
  switch (kind) {
    case "agreements":
      return agreementKeys.prefix();
    case "archetypes":
      return archetypeKeys.prefix();
    case "datasets":
      return datasetKeys.prefix();
    case "forcedServices":
      return forcedServicesKeys.prefix();
    case "microservices":
      return microserviceKeys.prefix();
    case "requestTypes":
      return requestTypeKeys.prefix();
  }
}

/** A document's own name: its key's last part. */
export function nameOf<Kind extends DocumentKind>(kind: Kind, document: DocumentOf<Kind>): string {
  return "data_steward" in document ? document.data_steward : document.name;
}

/** Asserts that a value has the form of its kind; else `configuration_invalid` with the JSON pointer (RFC 6901) of the first fault and all faults. */
export function requireDocument<Kind extends DocumentKind>(
  kind: Kind,
  value: unknown,
): asserts value is DocumentOf<Kind> {
  requireForm(DOCUMENT_SCHEMAS[kind], value, `The document of kind "${kind}"`);
}

/** A stored value, checked; `configuration_invalid` names its key and the place in it. */
export function versioned<Schema extends TSchema>(schema: Schema, stored: StoredDocument): Versioned<Static<Schema>> {
  const { key, value, revision } = stored;
  requireForm(schema, value, `The stored document ${key}`, { key });
  return { document: value, revision };
}

function requireForm<Schema extends TSchema>(
  schema: Schema,
  value: unknown,
  subject: string,
  details: Readonly<Record<string, unknown>> = {},
): asserts value is Static<Schema> {
  if (Value.Check(schema, value)) return;
  const faults = [...Value.Errors(schema, value)].slice(0, 20).map(({ path, message }) => ({ pointer: path, message }));
  const first = faults[0] ?? { pointer: "", message: "Invalid" };
  throw new AppError(
    "configuration_invalid",
    `${subject} is invalid at "${first.pointer}": ${first.message.toLowerCase()}.`,
    { place: { pointer: first.pointer }, details: { ...details, faults } },
  );
}

function checkedList<Schema extends TSchema>(schema: Schema, listing: Listing): VersionedList<Static<Schema>> {
  return { documents: listing.documents.map((stored) => versioned(schema, stored)), revision: listing.revision };
}
