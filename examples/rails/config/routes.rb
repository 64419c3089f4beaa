Rails.application.routes.draw { get "/products", to: "products#index" }
