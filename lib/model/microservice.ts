/** Chain metadata of microservices: who runs them, and what may follow them (thesis, section 4.2). */
import { Type, type Static } from "@sinclair/typebox";
import { DocumentName } from "./names.ts";

const Processors = Type.String({ pattern: "^([1-9]\\d{0,5}m|\\d{1,3}(\\.\\d{1,3})?)$" });

/** One microservice as a chain element. */
export const Microservice = Type.Object(
  {
    name: DocumentName,
    /** The role whose chain it belongs to; role `all` runs every label. */
    label: Type.Union([Type.Literal("dataProvider"), Type.Literal("computeProvider")]),
    /** Microservices that may come after it. */
    allowedOutputs: Type.Array(DocumentName, { uniqueItems: true }),
    /** Archetypes in whose chains it is left out (aggregate has one provider in computeToData). */
    invalidArchetypes: Type.Array(DocumentName, { uniqueItems: true }),
    /** New. Container image on a cluster. */
    image: Type.Optional(Type.String()),
    /** New. Program and arguments; absent: the microservice of this name in this package. */
    command: Type.Optional(Type.Array(Type.String(), { minItems: 1 })),
    /** New. What it gets beyond the stream; nothing by default, since it may be anybody's. */
    needs: Type.Optional(
      Type.Array(Type.Union([Type.Literal("data"), Type.Literal("anonymizationKey")]), { uniqueItems: true }),
    ),
    /** New. */
    resources: Type.Optional(
      Type.Object(
        {
          memoryLimitMiB: Type.Optional(Type.Integer({ minimum: 32 })),
          /** Processors, as Kubernetes writes them: `500m`, `2`. Only job runners with such limits heed them. */
          cpuRequest: Type.Optional(Processors),
          cpuLimit: Type.Optional(Processors),
        },
        { additionalProperties: false },
      ),
    ),
  },
  { additionalProperties: false },
);
export type Microservice = Static<typeof Microservice>;
