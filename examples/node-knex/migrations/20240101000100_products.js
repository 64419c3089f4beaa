exports.up = async (knex) => {
  await knex.schema.createTable("products", (table) => {
    table.increments("id");
    table.string("name").notNullable().unique();
  });
  await knex("products").insert([{ name: "apple" }, { name: "pear" }]);
};

exports.down = (knex) => knex.schema.dropTable("products");
