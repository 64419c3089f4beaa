require "rails"
require "active_record/railtie"
require "action_controller/railtie"

# The shop. The database's address is in DATABASE_URL.
class Shop < Rails::Application
  config.load_defaults 6.1
  config.eager_load = true
  config.hosts.clear
  config.secret_key_base = ENV.fetch("SECRET_KEY_BASE", "only for this example")
  config.logger = Logger.new($stderr)
  config.log_level = :warn
  # schema.rb is for a developer's machine; the image must not write it.
  config.active_record.dump_schema_after_migration = false
end
