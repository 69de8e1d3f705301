/** The settings of sql-anonymize, set by the agent. `docs/configuration.md` lists them; a test compares. */
import { Type } from "@sinclair/typebox";

/** Names are environment variables. */
export const SqlAnonymizeSettings = Type.Object({
  DYNAMOS_ANONYMIZATION_KEY_FILE: Type.String({ description: "file with the steward's key, hexadecimal" }),
});
